"""`farm report` and `farm reproduce`: what the two do around analysis/, which writes the reports."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farm import config as configuration
from farm import elsewhere
from farm.checks import short_path
from farm.config import Config
from farm.errors import COMPLETE, FAILED, PLACE_ERRORS, STORAGE_ERRORS, FarmError, PreflightError
from farm.ledger.scan import TRIALS
from farm.recall import data_root, last_grid, left_out, studies_with_results

if TYPE_CHECKING:
    from analysis.options import Options
    from analysis.report import ReportPaths


def report(overrides: list[str], check: bool) -> int:
    """Write the report of the study that is named, or of all that have results and are known; the exit code.

    With `check` nothing is written, and 1 says that a report is older than its rows. Of several studies one that
    cannot be reported leaves the others theirs. Raises `PreflightError` where there is nothing to report.
    """
    overrides, out = elsewhere.split(overrides)
    if any(o.startswith(("problem=", "study=")) for o in overrides):
        code, results = _report_one(overrides, check, out), configuration.load(overrides, looking=True).results
        made = ((out or results) / "index.html").exists() and elsewhere.owns_index(results, out)
        return max(code, _write_index(results, out)) if made and not check else code
    studies = studies_with_results(overrides)
    configs = [configuration.load(words) for words in studies]  # a misspelt word ends it before anything is written
    results = configs[0].results
    elsewhere.check_index(results, out)
    codes = [_or_said(_report_one, words, check, out) for words in studies]
    for line in left_out(results, [config.study for config in configs]):
        print(f"farm: {line}", file=sys.stderr)
    codes.append(_or_said(_check_index, out or results) if check else _or_said(_write_index, results, out))
    return max(codes)


def _or_said(work: Callable[..., int], *arguments: Any) -> int:
    """The code of one study's part; its error is said, and the other studies go on."""
    try:
        return work(*arguments)
    except FarmError as error:
        print(f"farm: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if error.errno not in (*STORAGE_ERRORS, *PLACE_ERRORS):
            raise
        print(f"farm: {error}", file=sys.stderr)
        return PreflightError.exit_code


def _report_one(overrides: list[str], check: bool, out: Path | None = None) -> int:
    config = last_grid(overrides)[0]
    if not any((config.ledger / part).is_dir() for part in (TRIALS, "export")):
        raise PreflightError(f"{config.ledger}: nothing has finished there yet; farm run comes first")
    if check:
        from analysis.report import is_stale

        return _told(is_stale(elsewhere.target(config, out), config.ledger))
    place = elsewhere.made_target(config, out)
    with elsewhere.hinted(config, place):
        damaged = _export_first(config, place)
        paths = _write_report(config, place)
    for path in dataclasses.astuple(paths):
        print(short_path(path))
    return FAILED if damaged else COMPLETE


def _write_report(config: Config, place: Path) -> ReportPaths:
    from analysis.report import AnalysisError, write_report

    try:
        return write_report(place, config.settings.problem, _options(config))
    except AnalysisError as error:
        raise PreflightError(str(error)) from None


def reproduce(overrides: list[str]) -> int:
    """Run the whole sheet as far as it goes here, report on it, and say what is missing; the exit code."""
    from farm import reproduce as sheet

    codes = []

    def one(config: Config) -> int:
        print(short_path(_write_report(config, config.ledger).html))
        return COMPLETE

    code, parts = sheet.reproduce(overrides, lambda config: codes.append(_or_said(one, config)))
    codes.append(_or_said(_write_index, parts[0].config.results))
    for line in sheet.lacking(parts):
        print(line)
    return max(code, *codes)


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


def _export_first(config: Config, place: Path) -> Sequence[Path]:
    """Export what has finished since, and name the trials whose results are damaged, which it returns.

    A ledger that cannot be written, or an export without one, is shown as it is.
    """
    if not (config.ledger / TRIALS).is_dir():
        elsewhere.copy_export(config, place)
        return ()
    try:
        damaged = elsewhere.export(config, place).damaged
    except OSError as error:
        if not elsewhere.is_refused(config, place, error):
            raise
        told = elsewhere.hint(config, place, error)
        print(f"farm: {error}; the report shows what was last exported{told}", file=sys.stderr)
        return ()
    tell_damaged(damaged)
    return damaged


def tell_damaged(trials: Sequence[Path]) -> None:
    """Name the finished trials whose results an export could not read."""
    for trial in trials:
        print(f"farm: {trial.name}: its results are damaged; farm run redoes it", file=sys.stderr)


def _write_index(results: Path, out: Path | None = None) -> int:
    from analysis.report import AnalysisError, write_index

    try:
        print(short_path(write_index(out or results).html))
    except AnalysisError as error:
        raise PreflightError(str(error)) from None
    elsewhere.mark_index(results, out)
    return COMPLETE


def _check_index(results: Path) -> int:
    from analysis.report import index_is_stale

    return _told(index_is_stale(results))


def _told(reasons: Sequence[str]) -> int:
    for reason in reasons:
        print(f"farm: {reason}", file=sys.stderr)
    return FAILED if reasons else COMPLETE
