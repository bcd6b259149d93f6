"""`out=DIRECTORY` of `farm export` and `farm report`: tables and report of a ledger that is not to be written.

Other people's results and archives are on file systems that refuse it. The directory gets one for each study, as a
directory of results does, and the ledger is neither changed nor locked.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from farm.checks import counted
from farm.command_line import check_repeated
from farm.config import Config
from farm.errors import PreflightError, UsageError
from farm.ledger.durable import write_file
from farm.ledger.scan import STUDY, TRIALS
from farm.recorded import recorded_command

if TYPE_CHECKING:
    from farm.ledger.export import Export

HINT = "; out=DIRECTORY has it written elsewhere"
MADE_FROM = ".made-from"
"""In a study's directory that `out=` made: the path of the ledger that its tables and report are of. Beside an index
that it made: that of the directory of results."""
INDEX = ("index.html", "index.md")
WRITTEN = ("export", "report", ".export.lock")
"""What an export and a report write in a ledger."""
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Errors of a directory that one may not write."""


def split(words: Sequence[str]) -> tuple[list[str], Path | None]:
    """The words without `out=DIRECTORY`, and that directory. Raises `UsageError` for several, or none."""
    check_repeated(list(words))
    given = [word.removeprefix("out=") for word in words if word.startswith("out=")]
    if "" in given:
        raise UsageError("out=: a directory is expected")
    rest = [word for word in words if not word.startswith("out=")]
    return rest, Path(given[0]).expanduser().absolute() if given else None


def target(config: Config, out: Path | None) -> Path:
    """Where a study's tables and report go: its ledger without `out`.

    Raises `PreflightError` for a place in a ledger, another ledger, and tables or a report of another.
    """
    if out is None:
        return config.ledger
    with _said(out):
        place, ledger = out / config.study, config.ledger.resolve()
        if place.resolve() == ledger:
            return config.ledger
        for above in place.resolve().parents:
            if above == ledger or recorded_command(above):  # trials/ alone may be a directory of sources
                raise PreflightError(f"out={out}: {place} is in the ledger {above}; name another directory")
        if (place / TRIALS).is_dir():
            raise PreflightError(f"out={out}: {place} is a ledger of its own; name another directory")
        if any((place / part).exists() for part in ("export", "report")) and _made_from(place) != os.fsencode(ledger):
            raise PreflightError(
                f"out={out}: {place} has tables or a report not made from {ledger}; name another directory"
            )
    return place


def made_target(config: Config, out: Path | None) -> Path:
    """`target`, made where it is a place of its own; it says which ledger it is of.

    Raises `PreflightError` also where it cannot be made.
    """
    place = target(config, out)
    if out is not None and place != config.ledger:
        with _said(out):
            place.mkdir(parents=True, exist_ok=True)
            _mark(place, config.ledger)
    return place


def owns_index(results: Path, out: Path | None) -> bool:
    """Whether the index of the reports may be written: in the results themselves, or where `out=` made it or none is.

    Raises `PreflightError` where nobody can tell.
    """
    if out is None:
        return True
    with _said(out):
        if out.resolve() == results.resolve() or (out / MADE_FROM).is_file():
            return True
        return not any(os.path.lexists(out / name) for name in INDEX)


def check_index(results: Path, out: Path | None) -> None:
    """Raise `PreflightError` where an index of somebody else's stands in the way."""
    if not owns_index(results, out):
        raise PreflightError(f"out={out}: its {' or '.join(INDEX)} is not of farm report; name another directory")


def mark_index(results: Path, out: Path | None) -> None:
    """Have the next report know the index that was just written."""
    if out is not None and out.resolve() != results.resolve():
        _mark(out, results)


@contextlib.contextmanager
def _said(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PreflightError(f"out={out}: cannot be made: {error}") from None


def _mark(place: Path, source: Path) -> None:
    write_file(place / MADE_FROM, os.fsencode(source.resolve()) + b"\n")


def _made_from(place: Path) -> bytes:
    path = place / MADE_FROM
    return path.read_bytes().removesuffix(b"\n") if path.is_file() else b""


def export(config: Config, place: Path) -> Export:
    """The tables of a ledger, and in a place of their own its study.yaml, which has the title and the command."""
    from farm import study

    if place != config.ledger:
        _copy([config.ledger / STUDY], place)
    return study.export(config, place)


def check_trials(config: Config) -> None:
    """Raise `PreflightError` for tables without the trials that they were made from: an export would empty them, also
    the one that a run ends with."""
    tables = config.ledger / "export" / "trials.parquet"
    if (config.ledger / TRIALS).is_dir() or not tables.is_file():
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    with contextlib.suppress(OSError, pa.ArrowException):
        if n := pq.read_metadata(tables).num_rows:
            raise PreflightError(
                f"{config.ledger}: {counted(n, 'trial')} in export/, and no trials/; farm report shows them; "
                "a run needs another results=, or export/ moved away"
            )


def copy_export(config: Config, place: Path) -> None:
    """The tables themselves, of an export without its trials."""
    if place != config.ledger:
        _copy([config.ledger / STUDY], place)
        _copy(sorted((config.ledger / "export").iterdir()), place / "export")


def _copy(files: Sequence[Path], directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for file in files:
        if file.is_file():
            write_file(directory / file.name, file.read_bytes())


@contextlib.contextmanager
def hinted(config: Config, place: Path) -> Iterator[None]:
    """Have an `OSError` of a ledger that one may not write end as a `PreflightError` that names `out=`."""
    try:
        yield
    except OSError as error:
        if not (told := hint(config, place, error)):
            raise
        raise PreflightError(f"{error}{told}") from None


def is_refused(config: Config, place: Path, error: OSError) -> bool:
    """Whether one may not write, or read, something of a ledger that was to have its own tables and report."""
    return place == config.ledger and error.errno in REFUSED


def hint(config: Config, place: Path, error: OSError) -> str:
    """`HINT` where a ledger's own tables or report were refused; nothing for a file that cannot be read."""
    if not is_refused(config, place, error) or not isinstance(error.filename, str | bytes):
        return ""
    path = Path(os.fsdecode(error.filename)).absolute()
    own = [place.absolute() / part for part in WRITTEN]
    return HINT if any(part in (path, *path.parents) for part in own) else ""
