"""The datasets: CIFAR-10 from either of its published layouts, and the built-in drawn one. No torch.

A dataset is decoded once, put into one canonical order and cached as memory-mapped arrays. Its fingerprint is
known before the data is, so that a plan needs no data: loading checks that the data have it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trials import cache, synthetic

if TYPE_CHECKING:
    import pyarrow

CIFAR10_FINGERPRINT = "f08f3fc8e9e44e051211a4e932c7b19cc739dedc35a38a2b568cc33faeffb522"
"""SHA-256 of the digests (SHA-256 of pixels, HWC uint8, and label byte) of all images: train, then test, each
in ascending order. Equal for every layout, encoding and order in which CIFAR-10 is published."""
FINGERPRINTS = {"cifar10": CIFAR10_FINGERPRINT, "synthetic": synthetic.FINGERPRINT, "none": "none"}
CIFAR10_ROWS = {"train": 50_000, "test": 10_000}
CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2023, 0.1994, 0.2010)
"""Of pixels in 0..1, as published with kuangliu/pytorch-cifar; problem 2 names them."""

Split = tuple[np.ndarray, np.ndarray]
"""uint8 (N, 32, 32, 3) and int64 (N,)."""


class DataError(Exception):
    """The data are not there, or not what they should be; the message says what to do."""


@dataclass(frozen=True)
class Dataset:
    """Both splits in canonical order: images uint8 (N, 32, 32, 3), memory-mapped, labels int64 (N,).

    `mean` and `std` are per channel, of pixels in 0..1.
    """

    name: str
    fingerprint: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    class_names: tuple[str, ...]


def fingerprint_of(name: str) -> str:
    """The fingerprint that a dataset has, without loading it."""
    if name not in FINGERPRINTS:
        raise DataError(f"data={name}: there is no such dataset; there are {', '.join(FINGERPRINTS)}")
    return FINGERPRINTS[name]


def load(name: str, data_root: Path | str | None, cache_dir: Path | str) -> Dataset:
    """The dataset `name`, decoded from `data_root` (which "synthetic" does not need) or read from the cache.

    Decoding CIFAR-10 takes 10 to 15 s on one core (threads do not help: Pillow holds the interpreter), drawing
    "synthetic" 2 s, opening either again 10 ms. Raises DataError. The source must be there, whole as far as its
    file listing and Parquet footers tell, even where the cache would do: a wrong `data_root` is said at once and
    not on the day the cache is gone.
    """
    fingerprint = fingerprint_of(name)
    folder = Path(cache_dir) / f"{name}-{fingerprint[:12]}"
    if name == "cifar10":
        source = find_cifar10(data_root)
        arrays = cached(folder, lambda: verified(source.read(), fingerprint, source))
        return Dataset(name, fingerprint, *arrays, CIFAR10_MEAN, CIFAR10_STD, CIFAR10_CLASSES)
    if name == "synthetic":
        arrays = cached(folder, lambda: (*synthetic.draw("train"), *synthetic.draw("test")))
        return Dataset(name, fingerprint, *arrays, synthetic.MEAN, synthetic.STD, synthetic.CLASSES)
    raise DataError(f"data={name}: this study reads no data")


def cached(folder: Path, make: Callable[[], Sequence[np.ndarray]]) -> list[np.ndarray]:
    """`cache.open_or_make`, where a disk that is full or read-only is a DataError."""
    try:
        return cache.open_or_make(folder, make)
    except OSError as error:
        raise DataError(f"cannot write the decoded data into {folder}: {error}") from error


def first_training_images(data_root: Path | str | None, count: int) -> np.ndarray:
    """The first training images of CIFAR-10 in the order of its files, uint8 (count, 32, 32, 3), to look at.

    Takes 0.1 s of the Parquet layout and 3 s of torchvision's, and makes no cache. Raises DataError.
    """
    return find_cifar10(data_root).first_training_images(count)


def fetch(data_root: Path | str) -> Path:
    """Download CIFAR-10 (170 MB) into `data_root` with torchvision, which checks its MD5."""
    from torchvision.datasets import CIFAR10

    CIFAR10(str(data_root), download=True)
    return Path(data_root)


def find_cifar10(data_root: Path | str | None) -> Pickled | Parquet:
    """The layout found in `data_root` or in a folder directly under it."""
    ways_out = "`farm data fetch` downloads it, data_root=FOLDER names another place, data=synthetic needs none"
    if data_root is None or not Path(data_root).is_dir():
        raise DataError(f"CIFAR-10: there is no folder {data_root}: {ways_out}")
    root = Path(data_root)
    for parent in (root, root.parent):
        if (parent / "cifar-10-batches-py").is_dir() and (parent == root or root.name == "cifar-10-batches-py"):
            return Pickled(parent)
    for folder in (root, *sorted(p for p in root.iterdir() if p.is_dir())):
        if any(folder.glob("*.parquet")):
            return Parquet(folder)
    raise DataError(f"CIFAR-10: nothing of it in {root}: {ways_out}")


@dataclass(frozen=True)
class Pickled:
    """torchvision's layout: `cifar-10-batches-py` in `root`."""

    root: Path

    def __str__(self) -> str:
        return str(self.root / "cifar-10-batches-py")

    def read(self) -> dict[str, Split]:
        """Both splits. Each file's MD5 is checked before torchvision unpickles it."""
        from torchvision.datasets import CIFAR10
        from torchvision.datasets.utils import check_integrity

        for name, md5 in (*CIFAR10.train_list, *CIFAR10.test_list):
            path = self.root / CIFAR10.base_folder / name
            if not check_integrity(str(path), md5):
                state = "is damaged (its MD5 is not CIFAR-10's)" if path.exists() else "is missing"
                raise DataError(f"CIFAR-10: {path} {state}; `farm data fetch` downloads it anew")
        splits = {}
        for split in CIFAR10_ROWS:
            source = CIFAR10(str(self.root), train=split == "train")
            splits[split] = (np.asarray(source.data), np.asarray(source.targets, dtype=np.int64))
        return splits

    def first_training_images(self, count: int) -> np.ndarray:
        """The first `count` of the first file."""
        return self.read()["train"][0][:count]


class Parquet:
    """Hugging Face's layout of uoft-cs/cifar10: shards train-*.parquet and test-*.parquet in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards = {split: self._shards(split) for split in CIFAR10_ROWS}

    def __str__(self) -> str:
        return str(self.folder)

    def _shards(self, split: str) -> list[Path]:
        """The split's files, all there and with readable footers."""
        import pyarrow
        import pyarrow.parquet

        paths = sorted(self.folder.glob(f"{split}-*.parquet"))
        if not paths:
            raise DataError(f"CIFAR-10: {self.folder} has no {split} split ({split}-*.parquet)")
        rows = 0
        for path in paths:
            try:
                rows += pyarrow.parquet.read_metadata(path).num_rows
            except (pyarrow.ArrowException, OSError) as error:
                raise DataError(f"CIFAR-10: {path} is truncated or damaged: {error}") from error
        if rows != CIFAR10_ROWS[split]:
            wanted = CIFAR10_ROWS[split]
            raise DataError(f"CIFAR-10: {len(paths)} {split} files in {self.folder} hold {rows} images, not {wanted}")
        return paths

    def read(self) -> dict[str, Split]:
        """Both splits, decoded."""
        splits = {}
        for split, paths in self.shards.items():
            shards = [read_shard(path) for path in paths]
            images, labels = (np.concatenate(parts) for parts in zip(*shards, strict=True))
            splits[split] = (images, labels)
        return splits

    def first_training_images(self, count: int) -> np.ndarray:
        """The first `count` of the first shard; the rest of it is not read."""
        import pyarrow.parquet

        path = self.shards["train"][0]
        with damage_named(path), pyarrow.parquet.ParquetFile(path) as file:
            return decode_all(next(file.iter_batches(count, columns=["img"]))["img"])


def read_shard(path: Path) -> Split:
    """Decode one Parquet file of encoded images. Raises DataError naming the file."""
    import pyarrow.parquet

    with damage_named(path):
        table = pyarrow.parquet.read_table(path, columns=["img", "label"])
        images = decode_all(table["img"].combine_chunks())
    return images, table["label"].to_numpy().astype(np.int64)


@contextlib.contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """What a truncated or damaged Parquet file raises becomes a DataError that names the file."""
    import pyarrow
    from PIL import UnidentifiedImageError

    try:
        yield
    except (pyarrow.ArrowException, KeyError, OSError, UnidentifiedImageError, ValueError) as error:
        raise DataError(f"CIFAR-10: {path} is truncated or damaged: {error}") from error


def decode_all(column: pyarrow.StructArray) -> np.ndarray:
    """The column `img` of encoded images -> uint8 (N, 32, 32, 3)."""
    return np.stack([decode(image) for image in column.field("bytes").to_pylist()])


def decode(encoded: bytes) -> np.ndarray:
    """One encoded image -> uint8 (32, 32, 3)."""
    from PIL import Image

    pixels = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
    if pixels.shape != (32, 32, 3):
        raise ValueError(f"an image of shape {pixels.shape}")
    return pixels


def digests(images: np.ndarray, labels: np.ndarray) -> list[bytes]:
    """SHA-256 of each image's pixels (HWC uint8) and label byte."""
    pixels = np.ascontiguousarray(images).reshape(len(images), -1)
    return [hashlib.sha256(p.tobytes() + bytes([label])).digest() for p, label in zip(pixels, labels, strict=True)]


def canonical(split: Split) -> tuple[Split, list[bytes]]:
    """The split sorted by digest, and its digests in that order."""
    images, labels = split
    keys = digests(images, labels)
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return (images[order], labels[order]), [keys[i] for i in order]


def fingerprint(digests_of_splits: Iterable[list[bytes]]) -> str:
    """SHA-256 over the sorted digests of each split in turn."""
    total = hashlib.sha256()
    for keys in digests_of_splits:
        total.update(b"".join(keys))
    return total.hexdigest()


def verified(splits: dict[str, Split], wanted: str, source: object) -> tuple[np.ndarray, ...]:
    """Train images, train labels, test images, test labels in canonical order, if their fingerprint is right."""
    train, train_digests = canonical(splits["train"])
    test, test_digests = canonical(splits["test"])
    found = fingerprint((train_digests, test_digests))
    if found != wanted:
        raise DataError(f"{source} does not hold CIFAR-10: its fingerprint is {found[:12]}…, not {wanted[:12]}…")
    return (*train, *test)
