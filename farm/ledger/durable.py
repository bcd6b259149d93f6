"""Writing so that a reader sees the whole or nothing, also after a power cut.

Every write of the ledger goes through this module: a temporary name on the same file system, fsync of files
and directory, rename, fsync of the parent. A directory written here carries `manifest.json`, the size and
SHA-256 of each file and a SHA-256 of its own, so that a torn or rotten one is recognised.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import secrets
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
TEMPORARY = ".tmp-"
OWN_DIGEST = "manifest_sha256"
GONE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
"""Errors of reading that mean the content is not to be had. Any other (a stale handle, too many open files, EIO of a
network file system whose server is slow) says nothing of the content, and must not pass for damage."""
PASSING = (errno.ESTALE, errno.EIO)
"""Errors that a second try may not meet: another host has just replaced the file, or a server answers again."""
TRIES, PAUSE_SECONDS = 3, 0.5


class Damaged(Exception):
    """A directory does not hold what its manifest says."""


def write_directory(target: Path, files: Mapping[str, bytes], meta: Mapping[str, Any] | None = None) -> bool:
    """Create directory `target` with `files` and a manifest, in one step.

    Returns False, and leaves what is there, when `target` exists already. Raises `OSError` (disk full,
    read-only file system) with nothing left behind but a temporary directory.
    """
    temporary = target.with_name(f"{TEMPORARY}{target.name}-{os.getpid()}-{secrets.token_hex(4)}")
    os.mkdir(temporary)
    try:
        for name, content in files.items():
            write_new(temporary / name, content)
        digests = {n: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in files.items()}
        write_new(temporary / MANIFEST, _manifest({"files": digests, **(meta or {})}))
        sync_directory(temporary)
        os.rename(temporary, target)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            return False
        raise
    sync_directory(target.parent)
    return True


def write_file(target: Path, content: bytes) -> None:
    """Create or replace one file in one step."""
    temporary = target.with_name(f"{TEMPORARY}{target.name}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        write_new(temporary, content)
        os.replace(temporary, target)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(target.parent)


def write_new(path: Path, content: bytes) -> None:
    """Create one file and make its content durable, not yet its name. Raises `FileExistsError`."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    except OSError as error:
        raise _named(error, path) from None
    finally:
        os.close(descriptor)


class Growing(io.RawIOBase):
    """A file that is written piece by piece beside its target; `put` makes it durable and replaces the target."""

    def __init__(self, target: Path) -> None:
        super().__init__()
        self._target, self._temporary = target, target.with_name(f"{TEMPORARY}{target.name}-{os.getpid()}")
        self._descriptor = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        try:
            return os.write(self._descriptor, content)
        except OSError as error:
            raise _named(error, self._temporary) from None

    def put(self) -> None:
        """The file is whole: in one step it stands in its target's place."""
        os.fsync(self._descriptor)
        self.close()
        os.replace(self._temporary, self._target)
        sync_directory(self._target.parent)

    def discard(self) -> None:
        """Unless it was `put`, the file goes; what is still written to it goes nowhere."""
        if not self.closed:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._descriptor)
            os.close(null)
            self._temporary.unlink(missing_ok=True)

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def _named(error: OSError, path: Path) -> OSError:
    """The error with the file that it is about."""
    return OSError(error.errno, error.strerror, str(path))


def write_json(target: Path, value: Mapping[str, Any]) -> None:
    """Create or replace one JSON file in one step."""
    write_file(target, (json.dumps(value, indent=1, default=str) + "\n").encode())


def create_directory(path: Path) -> bool:
    """Make one directory durably; False when it was there already. The maker owns it."""
    try:
        os.mkdir(path)
    except FileExistsError:
        return False
    sync_directory(path.parent)
    return True


def create_directories(path: Path) -> None:
    """Make a directory and those above it that are missing, each durably."""
    if not path.parent.is_dir():
        create_directories(path.parent)
    create_directory(path)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where it is gone or holds something else. Raises `OSError` otherwise."""
    try:
        value = json.loads(_read(path))
    except (Damaged, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """The manifest of a directory made by `write_directory`; None where it is gone or damaged."""
    manifest = read_json(directory / MANIFEST)
    if manifest is None:
        return None
    digest = manifest.pop(OWN_DIGEST, None)  # manifests of before 2026-11-25 have none
    files = manifest.get("files")
    shaped = isinstance(files, dict) and all(isinstance(f, dict) for f in files.values())
    return manifest if shaped and digest in (None, _digest_of(manifest)) else None


def read_verified(directory: Path, name: str, manifest: Mapping[str, Any] | None = None) -> bytes:
    """One file of a directory made by `write_directory`, held against its manifest. Raises `Damaged`."""
    manifest = manifest or read_manifest(directory) or {}
    content = _read(directory / name)
    if hashlib.sha256(content).hexdigest() != manifest.get("files", {}).get(name, {}).get("sha256"):
        raise Damaged(f"{directory / name}: its SHA-256 is not the manifest's")
    return content


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems have no fsync of directories
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _manifest(content: Mapping[str, Any]) -> bytes:
    """A manifest as bytes, with the digest of what else is in it, as it will be read."""
    return json.dumps({**content, OWN_DIGEST: _digest_of(json.loads(json.dumps(content)))}, indent=1).encode()


def _digest_of(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> bytes:
    """A file's content. Raises `Damaged` where it is gone; asks again after errors that pass, and then raises them."""
    for left in reversed(range(TRIES)):
        try:
            return path.read_bytes()
        except OSError as error:
            if error.errno in GONE:
                raise Damaged(f"{path}: {error.strerror}") from None
            if error.errno not in PASSING or not left:
                raise
            time.sleep(0 if error.errno == errno.ESTALE else PAUSE_SECONDS)
    raise AssertionError("unreachable")
