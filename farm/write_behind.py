"""Commits written behind the training's back."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from farm.ledger.store import Attempt
from trials.spec import Row


class WriteBehind:
    """Writes commits from a thread, one at a time, so that training does not wait for the disk.

    A commit counts only once it is durable; an error in the thread surfaces at the next call.
    """

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._pool = ThreadPoolExecutor(1, "commit")
        self._pending: Future[None] | None = None

    def submit(self, epoch: int, state: bytes, rows: list[Row], sources: str) -> None:
        """Write a commit behind; waits for the one before it."""
        self.wait()
        self._pending = self._pool.submit(self._attempt.commit, epoch, state, rows, sources)

    def wait(self) -> None:
        """Return when the last commit is durable."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def __enter__(self) -> WriteBehind:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(wait=True)
        if error[0] is None:
            self.wait()
