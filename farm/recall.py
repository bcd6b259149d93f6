"""What `farm status`, `why`, `export` and `report` speak of when a study is named alone: the grid of its last command,
and whatever of the study has finished besides."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable
from pathlib import Path

from farm import config as configuration
from farm.config import Config
from farm.errors import PreflightError, UsageError
from farm.ledger.scan import STUDY, TRIALS

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
    """Overrides for each of the farm's own studies that has a ledger or an export in the directory of results.

    Raises `PreflightError` where none has.
    """
    there = ledgers(configuration.load_place(overrides).results)
    if found := [path.name for path in there if path.name in configuration.studies()]:
        return [[f"study={name}", *overrides] for name in found]
    named = ", ".join(f"{path.name} ({shlex.join(naming_words(path)) or 'study=FILE.yaml'})" for path in there)
    raise PreflightError(f"{there[0].parent}: name the study that is meant; there are results of {named}")


def ledgers(results: Path) -> list[Path]:
    """Every study's directory in a directory of results. Raises `PreflightError` where there is none."""
    there = sorted(results.iterdir()) if results.is_dir() else []
    found = [path for path in there if any((path / part).is_dir() for part in (TRIALS, "export"))]
    if not found:
        raise PreflightError(f"{results}: no study has results there yet; results=DIRECTORY looks elsewhere")
    return found


def naming_words(ledger: Path) -> list[str]:
    """Words that name a ledger's study: those of its last command, else of the farm's own by its name, else none."""
    recorded = [o for o in recorded_command(ledger) if _key(o) in ("problem", "study", "site")]
    return recorded or ([f"study={ledger.name}"] if ledger.name in configuration.studies() else [])


def data_root(config: Config) -> Path:
    """`data_root=` of the configuration, else that of the study's last run, else data/ in the checkout."""
    earlier = dict(o.split("=", 1) for o in recorded_command(config.ledger) if "=" in o)
    return configuration.data_directory(config.settings.data_root or earlier.get("data_root"))


def recorded_command(ledger: Path) -> list[str]:
    """The overrides of the last run, as study.yaml has them in its first line; nothing where there was none."""
    try:
        with (ledger / STUDY).open(encoding="utf-8") as file:
            words = shlex.split(file.readline().removeprefix("#"))
    except (OSError, ValueError):
        return []
    return words[2:] if words[:2] == ["farm", "run"] else []


def _key(override: str) -> str:
    return override.partition("=")[0]
