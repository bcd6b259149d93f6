import hashlib
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from trials import data
from trials.data import DataError, Split

TRAIN, TEST = 50, 20
Splits = dict[str, Split]
WritePickled = Callable[[Path, Splits], Path]


def noise(n: int, seed: int) -> Split:
    random = np.random.RandomState(seed)
    return random.randint(0, 256, (n, 32, 32, 3)).astype(np.uint8), random.randint(0, 10, n)


@pytest.fixture
def splits(monkeypatch: pytest.MonkeyPatch) -> Splits:
    """A small dataset that stands for CIFAR-10: its sizes and fingerprint are made the expected ones."""
    splits = {"train": noise(TRAIN, 0), "test": noise(TEST, 1)}
    digests = [data.canonical(split)[1] for split in splits.values()]
    monkeypatch.setitem(data.FINGERPRINTS, "cifar10", data.fingerprint(digests))
    monkeypatch.setattr(data, "CIFAR10_ROWS", {"train": TRAIN, "test": TEST})
    return splits


def encode(image: np.ndarray, form: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, form, lossless=True)
    return buffer.getvalue()


def write_parquet(folder: Path, splits: Splits, form: str = "png", shards: int = 2) -> Path:
    """Hugging Face's layout."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, (images, labels) in splits.items():
        for i in range(shards):
            part = slice(i * len(labels) // shards, (i + 1) * len(labels) // shards)
            encoded = [{"bytes": encode(image, form), "path": "x.png"} for image in images[part]]
            table = pyarrow.table({"img": encoded, "label": pyarrow.array(labels[part])})
            pyarrow.parquet.write_table(table, folder / f"{split}-{i:05}-of-{shards:05}.parquet")
    return folder


@pytest.fixture
def write_pickled(monkeypatch: pytest.MonkeyPatch) -> WritePickled:
    """A function that writes torchvision's layout and makes the MD5s of its files the expected ones."""
    from torchvision.datasets import CIFAR10

    def write(root: Path, splits: Splits) -> Path:
        folder = root / CIFAR10.base_folder
        folder.mkdir(parents=True)

        def dump(name: str, content: object) -> tuple[str, str]:
            (folder / name).write_bytes(pickle.dumps(content))
            return name, hashlib.md5((folder / name).read_bytes()).hexdigest()

        def dump_batch(name: str, split: Split, part: slice) -> tuple[str, str]:
            planes = split[0][part].transpose(0, 3, 1, 2).reshape(-1, 3072)
            return dump(name, {"data": planes, "labels": split[1][part].tolist()})

        halves = (slice(0, TRAIN // 2), slice(TRAIN // 2, TRAIN))
        train = [dump_batch(f"data_batch_{i}", splits["train"], half) for i, half in enumerate(halves, 1)]
        test = [dump_batch("test_batch", splits["test"], slice(None))]
        meta_name, meta_md5 = dump("batches.meta", {"label_names": list(data.CIFAR10_CLASSES)})
        monkeypatch.setattr(CIFAR10, "train_list", train)
        monkeypatch.setattr(CIFAR10, "test_list", test)
        monkeypatch.setattr(CIFAR10, "meta", {"filename": meta_name, "key": "label_names", "md5": meta_md5})
        return root

    return write


def test_both_layouts_give_the_same_dataset(splits: Splits, write_pickled: WritePickled, tmp_path: Path) -> None:
    pickled = data.load("cifar10", write_pickled(tmp_path / "a", splits), tmp_path / "cache-a")
    parquet = data.load("cifar10", write_parquet(tmp_path / "b" / "plain_text", splits).parent, tmp_path / "cache-b")
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        assert np.array_equal(getattr(pickled, name), getattr(parquet, name))
    assert pickled.train_images.shape == (TRAIN, 32, 32, 3)
    assert (pickled.train_images.dtype, pickled.train_labels.dtype) == (np.uint8, np.int64)


def test_order_and_encoding_of_the_source_do_not_matter(splits: Splits, tmp_path: Path) -> None:
    shuffled = {name: (images[::-1], labels[::-1]) for name, (images, labels) in splits.items()}
    first = data.load("cifar10", write_parquet(tmp_path / "a", splits), tmp_path / "cache-a")
    second = data.load("cifar10", write_parquet(tmp_path / "b", shuffled, "webp", 1), tmp_path / "cache-b")
    assert np.array_equal(first.train_images, second.train_images)
    assert np.array_equal(first.test_labels, second.test_labels)


def test_canonical_order_keeps_each_image_with_its_label(splits: Splits) -> None:
    (images, labels), digests = data.canonical(splits["train"])
    assert digests == sorted(digests) == data.digests(images, labels)


def test_a_truncated_shard_is_named(splits: Splits, tmp_path: Path) -> None:
    shard = write_parquet(tmp_path, splits) / "train-00001-of-00002.parquet"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"train-00001-of-00002\.parquet is truncated or damaged"):
        data.load("cifar10", tmp_path, tmp_path / "cache")


def test_a_truncated_shard_is_named_even_when_the_cache_would_do(splits: Splits, tmp_path: Path) -> None:
    shard = write_parquet(tmp_path, splits) / "test-00000-of-00002.parquet"
    data.load("cifar10", tmp_path, tmp_path / "cache")
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    with pytest.raises(DataError, match=r"test-00000-of-00002\.parquet is truncated or damaged"):
        data.load("cifar10", tmp_path, tmp_path / "cache")


def test_a_damaged_image_is_named_by_its_shard(splits: Splits, tmp_path: Path) -> None:
    shard = write_parquet(tmp_path, splits, shards=1) / "train-00000-of-00001.parquet"
    content = bytearray(shard.read_bytes())
    content[len(content) // 3 : len(content) // 3 + 2000] = bytes(2000)
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"train-00000-of-00001\.parquet is truncated or damaged"):
        data.load("cifar10", tmp_path, tmp_path / "cache")


def test_a_missing_shard_is_told_by_the_number_of_images(splits: Splits, tmp_path: Path) -> None:
    (write_parquet(tmp_path, splits) / "train-00000-of-00002.parquet").unlink()
    with pytest.raises(DataError, match=f"hold {TRAIN // 2} images, not {TRAIN}"):
        data.load("cifar10", tmp_path, tmp_path / "cache")


def test_a_missing_split_is_told(splits: Splits, tmp_path: Path) -> None:
    write_parquet(tmp_path, {"train": splits["train"]})
    with pytest.raises(DataError, match="has no test split"):
        data.load("cifar10", tmp_path, tmp_path / "cache")


def test_other_images_are_refused(splits: Splits, tmp_path: Path) -> None:
    write_parquet(tmp_path, {**splits, "test": noise(TEST, 2)})
    with pytest.raises(DataError, match="does not hold CIFAR-10: its fingerprint"):
        data.load("cifar10", tmp_path, tmp_path / "cache")
    assert not any((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("root", [None, "/nowhere", "."])
def test_where_nothing_is_the_ways_out_are_listed(root: str | None, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        data.load("cifar10", tmp_path / root if root else None, tmp_path / "cache")
    assert all(way in str(caught.value) for way in ("farm data fetch", "data_root=", "data=synthetic"))


def test_a_pickle_with_a_wrong_md5_is_never_opened(splits: Splits, write_pickled: WritePickled, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
            return (tmp_path / "sprung").touch, ()

    root = write_pickled(tmp_path / "data", splits)
    (root / "cifar-10-batches-py" / "data_batch_2").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match="data_batch_2 is damaged"):
        data.load("cifar10", root, tmp_path / "cache")
    assert not (tmp_path / "sprung").exists()


def test_a_second_load_decodes_nothing(splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(tmp_path, splits)
    first = data.load("cifar10", tmp_path, tmp_path / "cache")
    monkeypatch.delattr(data, "decode")
    second = data.load("cifar10", tmp_path, tmp_path / "cache")
    assert np.array_equal(first.train_images, second.train_images)
    assert isinstance(second.train_images, np.memmap)


@pytest.mark.parametrize("layout", ["parquet", "pickled"])
def test_the_first_images_are_the_files_first(
    layout: str, splits: Splits, write_pickled: WritePickled, tmp_path: Path
) -> None:
    (write_pickled if layout == "pickled" else write_parquet)(tmp_path, splits)
    assert np.array_equal(data.first_training_images(tmp_path, 2), splits["train"][0][:2])


def test_first_images_of_a_damaged_shard_name_it(splits: Splits, tmp_path: Path) -> None:
    write_parquet(tmp_path, splits)
    content = bytearray((tmp_path / "train-00000-of-00002.parquet").read_bytes())
    content[4 : len(content) // 2] = bytes(len(content) // 2 - 4)
    (tmp_path / "train-00000-of-00002.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"train-00000-of-00002\.parquet is truncated or damaged"):
        data.first_training_images(tmp_path, 2)


@pytest.mark.parametrize("damage", ["truncated", "missing", "no manifest"])
def test_a_damaged_cache_is_made_anew(splits: Splits, tmp_path: Path, damage: str) -> None:
    write_parquet(tmp_path, splits)
    expected = np.array(data.load("cifar10", tmp_path, tmp_path / "cache").train_images)
    (folder,) = (tmp_path / "cache").iterdir()
    victim = folder / ("manifest.json" if damage == "no manifest" else "train_images.npy")
    if damage == "truncated":
        victim.write_bytes(victim.read_bytes()[:-1])
    else:
        victim.unlink()
    assert np.array_equal(data.load("cifar10", tmp_path, tmp_path / "cache").train_images, expected)
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [folder.name]


def test_many_may_make_the_cache_at_once(splits: Splits, tmp_path: Path) -> None:
    write_parquet(tmp_path, splits)
    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(lambda _: data.load("cifar10", tmp_path, tmp_path / "cache"), range(8)))
    assert all(np.array_equal(d.train_images, loaded[0].train_images) for d in loaded)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_cache_that_cannot_be_written_is_told(splits: Splits, tmp_path: Path) -> None:
    write_parquet(tmp_path, splits)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write"):
        data.load("cifar10", tmp_path, tmp_path / "file" / "cache")


def test_an_unknown_dataset_is_told_with_the_known_ones() -> None:
    with pytest.raises(DataError, match="cifar10, synthetic, none"):
        data.fingerprint_of("cifar100")


def test_synthetic_needs_no_data_root(tmp_path: Path) -> None:
    dataset = data.load("synthetic", None, tmp_path)
    assert dataset.fingerprint == data.fingerprint_of("synthetic")
    assert len(dataset.train_images) == 10_000


def test_loading_imports_no_torch() -> None:
    code = "import sys; from trials import data; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.cifar10
def test_the_real_images_have_the_constant_fingerprint(
    cifar10_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    dataset = data.load("cifar10", cifar10_root, tmp_path_factory.mktemp("cache"))
    assert dataset.train_images.shape == (50_000, 32, 32, 3)
    assert np.bincount(dataset.test_labels).tolist() == [1000] * 10
    means = dataset.train_images.reshape(-1, 3).mean(0) / 255
    assert means == pytest.approx(data.CIFAR10_MEAN, abs=2e-4)
