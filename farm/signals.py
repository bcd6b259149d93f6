"""What SIGTERM, SIGUSR1, SIGHUP and SIGINT do to a run: the first asks for a drain."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from farm.errors import INTERRUPTED, RESUMABLE
from farm.output import Terminals

KEPT = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
NUMBERS = (*KEPT, signal.SIGINT)
INSTALL = signal.signal


def heeded() -> tuple[signal.Signals, ...]:
    """The signals that ask this process for a drain: SIGHUP not where it was started to ignore that, as by nohup."""
    return tuple(n for n in NUMBERS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN)


@contextlib.contextmanager
def passed_to(function: Callable[[int], Any]) -> Iterator[None]:
    """Inside the block `function` gets the heeded signals, for another process to hear of."""
    terminals = Terminals()

    def come(number: int, frame: Any) -> None:
        if number == signal.SIGHUP:
            terminals.leave()
        function(number)

    before = {n: signal.signal(n, come) for n in heeded()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class Signals:
    """Each asks for a drain; a second SIGINT ends at once."""

    received: list[int] = field(default_factory=list)
    on_first: list[Callable[[], Any]] = field(default_factory=list)
    terminals: Terminals = field(default_factory=Terminals)
    numbers: tuple[signal.Signals, ...] = ()

    def stopping(self) -> bool:
        """Whether a drain was asked for."""
        return bool(self.received)

    def call(self, function: Callable[[], Any]) -> None:
        """Have `function` called at the first signal; at once when that has come."""
        self.on_first.append(function)
        if self.received:
            function()

    @property
    def exit_code(self) -> int | None:
        """130 after SIGINT alone, 75 after any other, None after none."""
        if any(n != signal.SIGINT for n in self.received):
            return RESUMABLE
        return INTERRUPTED if self.received else None

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signals inside the block.

        After a drain the process is about to end with `exit_code`, and none but SIGINT keeps it from that any more.
        """
        self.numbers = heeded()
        before = {n: signal.signal(n, self._handle) for n in self.numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                draining = self.received and number != signal.SIGINT
                signal.signal(number, signal.SIG_IGN if draining else handler)

    def renew(self) -> None:
        """Install the handlers again below Python, where Ray's C++ has put its own on top of them as it started.

        That one prints a stack before it passes SIGTERM on.
        """
        for number in self.numbers:
            INSTALL(number, self._handle)

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Inside the block no library takes a signal but SIGINT for itself, as Ray and Ray Tune do when they start.

        A mask would not hold the signals back: they then go to one of Ray's threads, which do not have it.
        """

        def install_others(number: int, handler: Any) -> Any:
            return signal.getsignal(number) if number in KEPT else INSTALL(number, handler)

        signal.signal = install_others  # type: ignore[assignment]
        try:
            yield
        finally:
            signal.signal = INSTALL

    def _handle(self, number: int, frame: Any) -> None:
        signal.alarm(0)  # Ray's handler in C++ sets one that aborts the process after 3 s, in the middle of a drain
        if number == signal.SIGHUP:
            self.terminals.leave()
        self.received.append(number)
        if len(self.received) == 1:
            for function in self.on_first:
                # Neither a full disk keeps a run from ending nor a line that falls into the middle of another.
                with contextlib.suppress(OSError, RuntimeError):
                    function()
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
