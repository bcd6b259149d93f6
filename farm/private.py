"""What only this user may read: the directory of this node's sockets, and the token of a Ray of our own."""

from __future__ import annotations

import atexit
import contextlib
import errno
import functools
import os
import secrets
import stat
from pathlib import Path

PARENT = Path("/tmp")
"""Not $TMPDIR: a socket path holds 107 bytes."""


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
    path = private_directory() / f"{os.getpid()}-{secrets.token_hex(4)}.token"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as sink:
        sink.write(secrets.token_hex(32))
    atexit.register(path.unlink, missing_ok=True)
    return path


def use_own_token() -> None:
    """Have the Ray that this process starts ask for a token of its own. To be called before Ray is imported."""
    os.environ.pop("RAY_AUTH_TOKEN", None)
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(own_token())}
