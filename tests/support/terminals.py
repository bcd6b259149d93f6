"""A command on a terminal of its own, which is then taken away from it."""

from __future__ import annotations

import fcntl
import os
import pty
import subprocess
import termios
from collections.abc import Callable, Mapping
from pathlib import Path


def closed_under(words: list[str], when: Callable[[], object], variables: Mapping[str, str], directory: Path) -> int:
    """Exit code of a command whose terminal goes once `when` returns; nobody reads the 64 KiB that it may write there.

    The kernel then sends SIGHUP to it and to all of its foreground group, and what is written there fails with EIO.
    """
    master, slave = pty.openpty()
    run = subprocess.Popen(
        words, stdin=slave, stdout=slave, stderr=slave, cwd=directory, env=dict(variables), start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    try:
        os.close(slave)
        when()
        os.close(master)
        return run.wait(timeout=60)
    finally:
        run.kill()
        run.wait()
