"""`farm report` and `farm reproduce`: what the two do around analysis/, which writes the reports."""

from __future__ import annotations

import dataclasses
import errno
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from farm import config as configuration
from farm.checks import short_path
from farm.config import Config
from farm.errors import COMPLETE, FAILED, PreflightError
from farm.ledger.scan import TRIALS
from farm.recall import data_root, last_grid, studies_with_results

if TYPE_CHECKING:
    from analysis.options import Options


def report(overrides: list[str], check: bool) -> int:
    """Write the report of the study that is named, or of all that have results; the exit code.

    With `check` nothing is written, and 1 says that a report is older than its rows. Raises `PreflightError` where
    there is nothing to report.
    """
    if any(o.startswith(("problem=", "study=")) for o in overrides):
        return _report_one(overrides, check)
    found = [
        c
        for c in map(configuration.load, studies_with_results(overrides))
        if (c.ledger / "export").is_dir() or (c.ledger / TRIALS).is_dir()
    ]
    if not found:
        raise PreflightError("no study has results to report yet; problem=N or study=NAME says which is meant")
    codes = [_report_one([f"study={c.study}", *overrides], check) for c in found]
    if not check:
        _write_index(found[0].results)
    return max(codes)


def _report_one(overrides: list[str], check: bool) -> int:
    from analysis.report import AnalysisError, is_stale, write_report

    config = last_grid(overrides)[0]
    if not check:
        _export_first(config)
    if not (config.ledger / "export").is_dir():
        raise PreflightError(f"{config.ledger}: nothing has finished there yet; farm run comes first")
    if check:
        stale = is_stale(config.ledger)
        for reason in stale:
            print(f"farm: {reason}", file=sys.stderr)
        return FAILED if stale else COMPLETE
    try:
        paths = write_report(config.ledger, config.settings.problem, _options(config))
    except AnalysisError as error:
        raise PreflightError(str(error)) from None
    for path in dataclasses.astuple(paths):
        print(short_path(path))
    return COMPLETE


def reproduce(overrides: list[str]) -> int:
    """Run the whole sheet as far as it goes here, report on it, and say what is missing; the exit code."""
    from analysis.report import AnalysisError, write_report
    from farm import reproduce as sheet

    def one(config: Config) -> None:
        try:
            print(short_path(write_report(config.ledger, config.settings.problem, _options(config)).html))
        except AnalysisError as error:
            print(f"farm: {error}", file=sys.stderr)

    code, parts = sheet.reproduce(overrides, one)
    _write_index(parts[0].config.results)
    for line in sheet.lacking(parts):
        print(line)
    return code


def _options(config: Config) -> Options:
    """With two of CIFAR-10's images for problem 4's figure of cutout, where the data are at hand."""
    from analysis.options import Options
    from trials import data

    if config.settings.problem != "4":
        return Options()
    try:
        images = data.first_training_images(data_root(config), 2)
    except (data.DataError, OSError):
        return Options()
    return Options(images=images, images_source="the first two training images of CIFAR-10")


def _export_first(config: Config) -> None:
    """Export what has finished since; a ledger that cannot be written, or an export without one, is shown as it is."""
    from farm import study

    if not (config.ledger / TRIALS).is_dir():
        return
    try:
        damaged = study.export(config).damaged
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        print(f"farm: {error}; the report shows what was last exported", file=sys.stderr)
        return
    tell_damaged(damaged)


def tell_damaged(trials: Sequence[Path]) -> None:
    """Name the finished trials whose results an export could not read."""
    for trial in trials:
        print(f"farm: {trial.name}: its results are damaged; farm run redoes it", file=sys.stderr)


def _write_index(results: Path) -> None:
    from analysis.report import AnalysisError, write_index

    try:
        print(short_path(write_index(results).html))
    except AnalysisError as error:
        print(f"farm: {error}", file=sys.stderr)
