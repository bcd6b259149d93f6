"""`farm status` without a study: what lies in the directory of results, a line for each study."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from farm.ledger.scan import STUDY, has_finished, trial_directories, trial_id
from farm.recall import ledgers
from farm.recorded import named, naming_words
from farm.status import Driver, driver_at_work


@dataclass(frozen=True)
class Study:
    """One study's ledger: `trials` of the grid that was last exported (None: of no grid), and its finished trials.

    `finished` counts those of that grid, else of the whole ledger. `words` name the study on a command line.
    """

    name: str
    finished: int
    trials: int | None
    driver: Driver | None
    last: datetime | None
    words: tuple[str, ...]


def overview(results: Path) -> list[Study]:
    """Every study with a ledger or an export in a directory of results. Raises `PreflightError` where none has."""
    return [_study(ledger) for ledger in ledgers(results)]


def _study(ledger: Path) -> Study:
    finished = {trial_id(p) for p in trial_directories(ledger) if has_finished(p)}
    grid = _last_grid(ledger)
    return Study(
        name=ledger.name,
        finished=len(
            finished if grid is None else [i for i, state in grid.items() if i in finished or state == "done"]
        ),
        trials=None if grid is None else len(grid),
        driver=driver_at_work(ledger, datetime.now(UTC)),
        last=max(_times(ledger), default=None),
        words=tuple(naming_words(ledger)),
    )


def _last_grid(ledger: Path) -> dict[str, str] | None:
    """States by id as last exported; None where that was never done, or cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(ledger / "export" / "plan.parquet", columns=["trial_id", "state"])
    except (OSError, pa.ArrowException):
        return None
    return dict(zip(*(table.column(c).to_pylist() for c in ("trial_id", "state")), strict=True))


def _times(ledger: Path) -> Iterator[datetime]:
    """When a driver last held the ledger, was begun, or tables were exported."""
    for path in [*ledger.glob("lock/*.json"), ledger / STUDY, ledger / "export" / "plan.parquet"]:
        if path.exists():
            yield datetime.fromtimestamp(path.stat().st_mtime, UTC)


def lines(studies: Sequence[Study], place: Sequence[str]) -> Iterator[str]:
    """A table of them; `place` are the words that name the directory."""
    rows = [("study", "done", "driver", "last", "named by")]
    for s in studies:
        done = str(s.finished) if s.trials is None else f"{s.finished}/{s.trials}"
        driver = f"pid {s.driver.pid} on {s.driver.host}" if s.driver else "-"
        last = f"{s.last:%Y-%m-%d %H:%M}Z" if s.last else "-"
        rows.append((s.name, done, driver, last, named(s.words, place)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
