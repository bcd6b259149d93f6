"""What only this user may read: the directory of this node's sockets, and the token of a Ray of our own."""

from __future__ import annotations

import atexit
import functools
import os
import secrets
from pathlib import Path


def private_directory() -> Path:
    """A directory of this node that only this user can enter. Raises PermissionError where it is another's."""
    directory = Path(f"/tmp/farm-{os.getuid()}")  # not $TMPDIR: a socket path holds 107 bytes
    directory.mkdir(mode=0o700, exist_ok=True)
    if directory.stat().st_uid != os.getuid():
        raise PermissionError(f"{directory} belongs to another user")
    directory.chmod(0o700)
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
