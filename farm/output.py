"""The standard streams, which a run outlives."""

from __future__ import annotations

import os
import sys
from typing import Any, TextIO


def open_closed() -> None:
    """Give this process the standard streams that it was started without (`farm run … >&-`): they go nowhere."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115  # as long as this lives


class Terminals:
    """Those of standard output and standard error that are terminals when this is made."""

    def __init__(self) -> None:
        self._descriptors = [d for d in (1, 2) if os.isatty(d)]

    def leave(self) -> None:
        """What is written to those that are gone by now goes nowhere; it would fail with EIO."""
        for descriptor in self._descriptors:
            if not os.isatty(descriptor):
                to_nowhere(descriptor)


class Output:
    """A stream that takes no error for the run's: where its reader has gone (`farm run | head`) or its disk is full,
    what else is written to it goes nowhere. All but `write` and `flush` is the stream's own.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, or not; the number of characters given."""
        try:
            self._stream.write(text)
        except OSError:
            self._end()
        return len(text)

    def flush(self) -> None:
        """Flush, or not."""
        try:
            self._stream.flush()
        except OSError:
            self._end()

    def _end(self) -> None:
        """What the stream still holds goes to /dev/null, also at the interpreter's end."""
        to_nowhere(self._stream.fileno())


def to_nowhere(descriptor: int) -> None:
    """What is written to the descriptor from now on goes to /dev/null."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
