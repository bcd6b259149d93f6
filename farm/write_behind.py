"""Commits written behind the training's back."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from farm.ledger.store import Attempt
from trials.spec import Row


class WriteBehind:
    """Writes commits from a thread, one at a time, so that training does not wait for the disk.

    A commit counts only once it is durable; an error in the thread surfaces at the next call. One that is held is
    written where the block ends by an exception, and else not.
    """

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._pool = ThreadPoolExecutor(1, "commit")
        self._pending: Future[None] | None = None
        self._held: tuple[int, bytes, list[Row], str] | None = None

    def submit(self, epoch: int, state: bytes, rows: list[Row], sources: str) -> None:
        """Write a commit behind, in place of the one that is held; waits for the one before it."""
        self._held = None
        self.wait()
        self._pending = self._pool.submit(self._attempt.commit, epoch, state, rows, sources)

    def hold(self, epoch: int, state: bytes, rows: list[Row], sources: str) -> None:
        """Hold a commit, in place of the one that is held."""
        self._held = epoch, state, rows, sources

    def wait(self) -> None:
        """Return when the last commit is durable."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def __enter__(self) -> WriteBehind:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            if isinstance(error, Exception) and self._held is not None:
                self.submit(*self._held)
                self.wait()
        finally:
            self._pool.shutdown(wait=True)
        if error is None:
            self.wait()
