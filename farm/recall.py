"""What `farm status`, `why`, `export` and `report` speak of when a study is named alone: the grid of its last command,
and whatever of the study has finished besides."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from farm import config as configuration
from farm.config import Config
from farm.errors import PreflightError, UsageError
from farm.ledger.scan import TRIALS
from farm.recorded import named, naming_words, own_study_word, recorded_command
from trials.spec import trial_module

PLACE = ("problem", "study", "site", "results")
"""Keys that say which ledger is meant, and nothing of the grid in it."""
MODEL = "hardware"
"""The key that says of which GPU model's trials one speaks; they may be of the same grid."""
ONCE = ("trial", "retry", "max_gpu_hours")
"""Keys that were meant for that one command."""


def last_grid(overrides: list[str]) -> tuple[Config, list[str]]:
    """The configuration of these overrides, or, where they name a study alone, of its last command; and its words.

    A GPU model may stand beside it. A study that is named so is taken `with_finished`. Raises `UsageError` for a wrong
    word among the overrides.
    """
    config = configuration.load(overrides, looking=True)
    keys = [_key(o) for o in overrides]
    if any(key not in (*PLACE, MODEL) for key in keys):
        return config, overrides
    earlier = {_key(o): o for o in recorded_command(config.ledger) if _key(o) not in (*PLACE, *ONCE, *keys)}
    words = [*overrides, *earlier.values()]  # the last of a key, which an older farm took several times
    try:
        found = configuration.load(words, looking=True)
    except UsageError:  # a word of then that the study no longer knows
        words, found = overrides, config
    return dataclasses.replace(found, with_finished=True), words


def following(overrides: list[str]) -> Callable[[], tuple[Config, list[str]]]:
    """`last_grid` for one who watches: what it returns looks anew whenever another command has been recorded."""
    found = last_grid(overrides)
    recorded: list[str] | None = None  # not read before `found`: a run may record itself between the two

    def look() -> tuple[Config, list[str]]:
        nonlocal found, recorded
        if (now := recorded_command(found[0].ledger)) != recorded:
            found, recorded = last_grid(overrides), now
        return found

    return look


def place_words(overrides: list[str]) -> list[str]:
    """Those of a command's words that name its study, its ledger and the GPU model."""
    return [o for o in overrides if _key(o) in (*PLACE, MODEL)]


def studies_with_results(overrides: list[str]) -> list[list[str]]:
    """Overrides for each study that has a ledger or an export in the directory of results, and is known from here.

    Those are the farm's own, and this user's where the file is there that the last command names and its grid can be
    made with these overrides. Raises `PreflightError` where there is none.
    """
    there = ledgers(configuration.load_place(overrides).results)
    if found := [words for path in there if (words := _known(path, overrides))]:
        return found
    told = ", ".join(f"{path.name} ({named(naming_words(path))})" for path in there)
    raise PreflightError(f"{there[0].parent}: name the study that is meant; there are results of {told}")


def _known(ledger: Path, overrides: list[str]) -> list[str]:
    """Overrides for a ledger's study; none where it has to be named."""
    if ledger.name in configuration.studies():
        return [f"study={ledger.name}", *overrides]
    if not (word := own_study_word(ledger)):
        return []
    words = [word, *overrides]
    try:
        config = configuration.load(words, looking=True)
    except UsageError:  # whoever names it is told
        return []
    return words if config.ledger == ledger and _has_its_module(config) else []


def _has_its_module(config: Config) -> bool:
    """Whether the module is not another one of that name, which lies beside a study that was read before."""
    name = config.settings.module
    beside = config.study_file.parent / f"{name}.py"
    loaded = trial_module(name).__file__
    return not beside.is_file() or (loaded is not None and beside.samefile(loaded))


def left_out(results: Path, shown: Collection[str]) -> Iterator[str]:
    """A sentence for each study with results there that is not among those shown: how it is named."""
    for ledger in ledgers_in(results):
        if ledger.name not in shown:
            yield f"{ledger.name} is left out; it is named by {named(naming_words(ledger))}"


def ledgers(results: Path) -> list[Path]:
    """Every study's directory in a directory of results. Raises `PreflightError` where there is none."""
    if found := ledgers_in(results):
        return found
    raise PreflightError(f"{results}: no study has results there yet; results=DIRECTORY looks elsewhere")


def ledgers_in(results: Path) -> list[Path]:
    """The same, without any where there is none."""
    there = sorted(results.iterdir()) if results.is_dir() else []
    return [path for path in there if any((path / part).is_dir() for part in (TRIALS, "export"))]


def data_root(config: Config) -> Path:
    """`data_root=` of the configuration, else that of the study's last run, else data/ in the checkout."""
    earlier = dict(o.split("=", 1) for o in recorded_command(config.ledger) if "=" in o)
    return configuration.data_directory(config.settings.data_root or earlier.get("data_root"))


def _key(override: str) -> str:
    return override.partition("=")[0]
