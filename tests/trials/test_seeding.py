from trials.seeding import derived_seed


def test_seed_and_epoch_do_not_stand_for_each_other() -> None:
    assert len({derived_seed(seed, "draws", epoch) for seed in range(30) for epoch in range(30)}) == 900


def test_a_seed_is_the_same_for_ever() -> None:
    assert derived_seed(0, "draws", 0) == 944230979145899058


def test_torch_takes_every_seed() -> None:
    assert all(0 <= derived_seed(seed, "weights") < 2**63 for seed in range(100))
