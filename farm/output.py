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
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())
        os.close(null)
