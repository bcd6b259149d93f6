"""Decoded datasets on disk: memory-mapped arrays that appear whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
MANIFEST = "manifest.json"
"""For each file its size in bytes and SHA-256. Written and checked in full when the cache is made; opening it
again compares the sizes only, which costs no reading of the 184 MB."""


def open_or_make(folder: Path, make: Callable[[], Sequence[np.ndarray]]) -> list[np.ndarray]:
    """The four ARRAYS, memory-mapped read-only from `folder`; made there first if they are not whole.

    Safe when several processes do it at once: each writes a folder of its own, the first rename wins.
    """
    if not is_whole(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            write(made, make())
            if not is_whole(made, thorough=True):
                raise OSError(f"{made}: the files read back are not what was written")
            publish(made, folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    return [np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS]


def is_whole(folder: Path, *, thorough: bool = False) -> bool:
    """Whether all files are there as the manifest says: their sizes, and their content if `thorough`."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        entries = [(folder / f"{name}.npy", manifest[f"{name}.npy"]) for name in ARRAYS]
        return all(
            path.stat().st_size == entry["bytes"] and (not thorough or sha256_of(path) == entry["sha256"])
            for path, entry in entries
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write(folder: Path, arrays: Sequence[np.ndarray]) -> None:
    """Write arrays and manifest durably. The manifest's sums come from memory, so that `is_whole` can tell what
    the disk made of them."""
    manifest = {}
    for name, array in zip(ARRAYS, arrays, strict=True):
        path = folder / f"{name}.npy"
        content = npy_bytes(array)
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        manifest[path.name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    with (folder / MANIFEST).open("w") as file:
        json.dump(manifest, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(folder)


def publish(made: Path, folder: Path) -> None:
    """Rename `made` to `folder`, unless another process has been first; what is damaged there goes away."""
    made.chmod(0o755)  # mkdtemp's 0700 would keep colleagues out of a shared cache
    while not is_whole(folder):
        try:
            made.rename(folder)
        except OSError:
            if not folder.exists():
                raise
            if is_whole(folder):
                break
            damaged = Path(tempfile.mkdtemp(prefix=f".{folder.name}-damaged-", dir=folder.parent))
            folder.replace(damaged / "old")
            shutil.rmtree(damaged, ignore_errors=True)
    sync_folder(folder.parent)


def npy_bytes(array: np.ndarray) -> memoryview:
    """The array as the content of an .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getbuffer()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Make a folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
