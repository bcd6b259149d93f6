"""Both paths, the engine's tables and torchvision's transforms, draw the same distribution of images."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats

from trials import augment, plain_loop

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
MASKED_AREA, FULL_SQUARE = 0.1914, 0.2822
"""Of a hole of 16 in 32x32 (FACTS: 19.14 % and 28.2 %), to be reproduced analytically and by sampling."""
N = 20_000
Path = Callable[[str, torch.Tensor, int], torch.Tensor]


def holes_by_enumeration(length: int) -> np.ndarray:
    """Area of the hole for each of the 32x32 centres, in pixels, from DeVries & Taylor's clipping."""
    centre = np.arange(32)
    side = np.clip(centre + length // 2, 0, 32) - np.clip(centre - length // 2, 0, 32)
    return np.outer(side, side)


def engine_images(augmentation: str, image: torch.Tensor, n: int) -> torch.Tensor:
    """n augmented copies of one image, drawn by the engine."""
    rows = augment.epoch_table(0, 0, 1, 1, n, augmentation)[0]
    images = augment.pad_images(image[None])
    return augment.augment(images, rows, torch.tensor(MEAN), torch.tensor(STD), 16, torch.float32)


def plain_images(augmentation: str, image: torch.Tensor, n: int) -> torch.Tensor:
    """n augmented copies of one image, drawn by torchvision's transforms."""
    torch.manual_seed(0)
    pipeline = plain_loop.transform(augmentation, MEAN, STD)
    data = plain_loop.ImageDataset(image.numpy()[None], np.zeros(1), pipeline)
    return torch.stack([data[0][0] for _ in range(n)])


def coordinates_image() -> torch.Tensor:
    """Red tells the row, green the column, blue is full: a crop can be read from its pixels."""
    line = torch.arange(1, 33, dtype=torch.uint8)
    full = torch.full((32, 32), 255, dtype=torch.uint8)
    return torch.stack([line[:, None].expand(32, 32), line[None, :].expand(32, 32), full], 2).contiguous()


def pixels_of(batch: torch.Tensor) -> torch.Tensor:
    """Back to uint8 values, (N, 3, 32, 32)."""
    shape = (1, 3, 1, 1)
    return ((batch * torch.tensor(STD).view(shape) + torch.tensor(MEAN).view(shape)) * 255).round()


def crops_and_flips(batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """dy, dx (0..8) and flip of each image, read at the centre, which no crop loses."""
    pixels = pixels_of(batch)
    row, left, right = pixels[:, 0, 15, 15], pixels[:, 1, 15, 15], pixels[:, 1, 15, 16]
    flip = left > right
    return row - 1 - 15 + 4, torch.where(flip, right, left) - 1 - 15 + 4, flip


def test_areas_of_the_hole_by_enumeration() -> None:
    areas = holes_by_enumeration(16)
    assert areas.mean() / 1024 == pytest.approx(MASKED_AREA, abs=5e-5)
    assert (areas == 256).mean() == pytest.approx(FULL_SQUARE, abs=5e-5)
    assert areas.min() == 64


def test_the_engine_s_holes_are_devries_and_taylor_s_at_every_centre() -> None:
    cy, cx = torch.cartesian_prod(torch.arange(32), torch.arange(32)).T
    areas = augment.holes(cy, cx, 16).sum((1, 2)).view(32, 32)
    assert np.array_equal(areas.numpy(), holes_by_enumeration(16))


@pytest.mark.parametrize(("path", "n"), [(engine_images, N), (plain_images, 2000)])
def test_masked_area_of_both_paths(path: Path, n: int) -> None:
    white = torch.full((32, 32, 3), 255, dtype=torch.uint8)
    areas = (path("cutout", white, n) == 0).all(1).sum((1, 2)).double()
    expected = holes_by_enumeration(16)
    error_of_mean = expected.std() / n**0.5
    assert areas.mean().item() == pytest.approx(MASKED_AREA * 1024, abs=4 * error_of_mean)
    assert (areas == 256).double().mean().item() == pytest.approx(FULL_SQUARE, abs=4 * (0.2 / n) ** 0.5)


@pytest.mark.parametrize(("path", "n"), [(engine_images, N), (plain_images, 4000)])
def test_crops_are_uniform_over_9x9_and_flips_half(path: Path, n: int) -> None:
    dy, dx, flip = crops_and_flips(path("standard", coordinates_image(), n))
    cells = torch.bincount((dy * 9 + dx).long(), minlength=81)
    assert len(cells) == 81
    assert stats.chisquare(cells.numpy()).pvalue > 1e-3
    assert flip.double().mean().item() == pytest.approx(0.5, abs=4 * (0.25 / n) ** 0.5)


def test_the_same_draws_give_torchvision_s_image_bit_for_bit() -> None:
    from PIL import Image
    from torchvision.transforms import functional

    image = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8)
    rows = torch.tensor([[0], [7], [1], [1], [3], [30]])
    ours = augment.augment(
        augment.pad_images(image[None]), rows, torch.tensor(MEAN), torch.tensor(STD), 16, torch.float32
    )[0]
    padded = functional.pad(Image.fromarray(image.numpy()), 4)
    theirs = functional.normalize(
        functional.to_tensor(functional.hflip(functional.crop(padded, 7, 1, 32, 32))), MEAN, STD
    )
    theirs[:, 0:11, 22:32] = 0
    assert torch.equal(ours, theirs)


def test_no_augmentation_is_the_normalised_image() -> None:
    images = torch.randint(0, 256, (5, 32, 32, 3), dtype=torch.uint8)
    batch = augment.augment(images, torch.tensor([[4, 0]]), torch.tensor(MEAN), torch.tensor(STD), 16, torch.float32)
    assert torch.equal(pixels_of(batch), images[[4, 0]].permute(0, 3, 1, 2).float())


def test_the_batch_is_channels_last() -> None:
    batch = engine_images("cutout", coordinates_image(), 8)
    assert batch.shape == (8, 3, 32, 32)
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_each_sample_comes_once_an_epoch_in_m_copies_with_draws_of_their_own() -> None:
    table = augment.epoch_table(0, 3, 100, 16, 4, "cutout")
    assert table.shape == (6, 6, 64)
    index = table[:, augment.INDEX].view(6, 4, 16)
    assert torch.equal(index, index[:, :1].expand_as(index))
    assert len(index[:, 0].unique()) == 96
    draws = table[:, 1:].view(6, 5, 4, 16)
    assert (draws[:, :, 0] != draws[:, :, 1]).any(1).double().mean() > 0.99


def test_arms_see_the_samples_in_one_order() -> None:
    arms = [augment.epoch_table(0, 1, 64, 16, m, a) for m, a in ((1, "none"), (1, "standard"), (2, "cutout"))]
    assert torch.equal(arms[0][:, 0], arms[1][:, 0])
    assert torch.equal(arms[0][:, 0], arms[2][:, 0, :16])


@pytest.mark.parametrize("other", [(1, 0), (0, 1), (1, 1)])
def test_seed_and_epoch_change_the_draws(other: tuple[int, int]) -> None:
    assert not torch.equal(
        augment.epoch_table(0, 0, 64, 16, 1, "cutout"), augment.epoch_table(*other, 64, 16, 1, "cutout")
    )
