"""`out=DIRECTORY` of `farm export` and `farm report`: tables and report of a ledger that is not to be written.

Other people's results and archives are on file systems that refuse it. The directory gets one for each study, as a
directory of results does, and the ledger is neither changed nor locked.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from farm.checks import counted
from farm.command_line import check_repeated
from farm.config import Config
from farm.errors import PreflightError, UsageError
from farm.ledger.durable import write_file
from farm.ledger.scan import STUDY, TRIALS

if TYPE_CHECKING:
    from farm.ledger.export import Export

HINT = "out=DIRECTORY has it written elsewhere"
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Errors of a directory that one may not write."""


def split(words: Sequence[str]) -> tuple[list[str], Path | None]:
    """The words without `out=DIRECTORY`, and that directory. Raises `UsageError` for several, or none."""
    check_repeated(list(words))
    given = [word.removeprefix("out=") for word in words if word.startswith("out=")]
    if "" in given:
        raise UsageError("out=: a directory is expected")
    rest = [word for word in words if not word.startswith("out=")]
    return rest, Path(given[-1]).expanduser().absolute() if given else None


def place_of(config: Config, out: Path | None) -> Path:
    """Where a study's tables and report go: its ledger without `out`. Raises `PreflightError` for another ledger."""
    place = out / config.study if out else config.ledger
    if place.resolve() == config.ledger.resolve():
        return config.ledger
    if (place / TRIALS).is_dir():
        raise PreflightError(f"out={out}: {place} is a ledger of its own; name another directory")
    return place


def export(config: Config, place: Path) -> Export:
    """The tables of a ledger, and in a place of their own its study.yaml, which has the title and the command."""
    from farm import study

    if place != config.ledger:
        _copy([config.ledger / STUDY], place)
    return study.export(config, place)


def check_trials(config: Config) -> None:
    """Raise `PreflightError` for tables without the trials that they were made from: an export would empty them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if (config.ledger / TRIALS).is_dir():
        return
    with contextlib.suppress(OSError, pa.ArrowException):
        if n := pq.read_metadata(config.ledger / "export" / "trials.parquet").num_rows:
            raise PreflightError(
                f"{config.ledger}: {counted(n, 'trial')} in export/, and no trials/; farm report shows them"
            )


def copy_export(config: Config, place: Path) -> None:
    """The tables themselves, of an export without its trials."""
    if place != config.ledger:
        _copy([config.ledger / STUDY], place)
        _copy(sorted((config.ledger / "export").iterdir()), place / "export")


def _copy(files: Sequence[Path], target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for file in files:
        if file.is_file():
            write_file(target / file.name, file.read_bytes())


@contextlib.contextmanager
def hinted(out: Path | None) -> Iterator[None]:
    """Have an `OSError` of a directory that one may not write end as a `PreflightError` that names `out=`."""
    try:
        yield
    except OSError as error:
        if out or error.errno not in REFUSED:
            raise
        raise PreflightError(f"{error}; {HINT}") from None
