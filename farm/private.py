"""What a driver keeps on its node, closed to other users: sockets, the token of a Ray of our own, Tune's scratch.

A driver that is killed leaves its own behind, and the next one of the same user removes them. Whose driver lives is
told by the lock on a file, not by a process id: containers that share /tmp need not see each other's processes.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
import functools
import os
import secrets
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

PARENT = Path("/tmp")
"""Not $TMPDIR: a socket path holds 107 bytes."""
HELD = "held"
"""File in a scratch directory that its driver has locked."""


def private_directory() -> Path:
    """A directory of this node that only this user can enter. Raises PermissionError where it is another's, or a link.

    Anybody may have made that name in /tmp before, also as a link to a directory of this user's.
    """
    directory = PARENT / f"farm-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(errno.EPERM, "is no directory of yours; it must be removed", str(directory))
    directory.chmod(0o700)  # what is this user's own, nobody else can replace in a sticky /tmp
    return directory


@functools.cache
def own_token() -> Path:
    """File (0600) with a new token, for as long as this process lives.

    Ray's own ~/.ray/auth_token is for everything a user ever starts, and readable by others under a common umask.
    """
    directory = private_directory()
    for left in filter(_is_left, [*directory.glob("token-*"), *directory.glob(".token-*")]):
        left.unlink(missing_ok=True)
    path = directory / f"token-{os.getpid()}-{secrets.token_hex(4)}"
    _write_and_hold(path, secrets.token_hex(32))  # until the process ends
    atexit.register(path.unlink, missing_ok=True)
    return path


@contextlib.contextmanager
def scratch_directory() -> Iterator[Path]:
    """A directory under $TMPDIR for as long as the block runs.

    The node's name is part of it: nodes may share $TMPDIR and not their locks.
    """
    parent, prefix = Path(tempfile.gettempdir()), f"farm-tune-{os.getuid()}-{socket.gethostname()}-"
    for left in parent.glob(f"{prefix}*"):
        if _is_own(left, stat.S_ISDIR) and _is_left(left / HELD):
            shutil.rmtree(left, ignore_errors=True)
    directory = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        with os.fdopen(_write_and_hold(directory / HELD, "")):
            yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _write_and_hold(path: Path, content: str) -> int:
    """A new file (0600), locked while the descriptor is open; it is never seen under its name without the lock."""
    new = path.with_name(f".{path.name}")
    descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(descriptor, content.encode())
    with contextlib.suppress(OSError):  # no locks there: then nobody calls it left
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    new.rename(path)
    return descriptor


def _is_left(path: Path) -> bool:
    """Whether a file of `_write_and_hold` has outlived its process; False for what others may have put there."""
    if not _is_own(path, stat.S_ISREG):
        return False
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)  # NFS locks what is open for writing
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _is_own(path: Path, is_kind: Callable[[int], bool]) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    return is_kind(found.st_mode) and found.st_uid == os.getuid()


def use_own_token() -> None:
    """Have the Ray that this process starts ask for a token of its own. To be called before Ray is imported."""
    os.environ.pop("RAY_AUTH_TOKEN", None)
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(own_token())}
