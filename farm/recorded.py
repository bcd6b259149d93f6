"""What a ledger remembers of the command that made it, and how its study is named on a command line."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from farm.command_line import studies
from farm.ledger.scan import STUDY

SUFFIXES = (".yaml", ".yml")
UNKNOWN_FILE = "study=FILE.yaml"
"""How a study is named of which nothing is recorded."""


def recorded_command(ledger: Path) -> list[str]:
    """The overrides of the last run, as study.yaml has them in its first line; nothing where there was none."""
    try:
        with (ledger / STUDY).open(encoding="utf-8") as file:
            words = shlex.split(file.readline().removeprefix("#"))
    except (OSError, ValueError):
        return []
    return words[2:] if words[:2] == ["farm", "run"] else []


def naming_words(ledger: Path) -> list[str]:
    """Words that name a ledger's study: those of its last command, else of the farm's own by its name, else none."""
    recorded = [o for o in recorded_command(ledger) if o.partition("=")[0] in ("problem", "study", "site")]
    return recorded or ([f"study={ledger.name}"] if ledger.name in studies() else [])


def named(words: Sequence[str], place: Sequence[str] = ()) -> str:
    """A ledger's `naming_words` and those of its place as one types them, and whether the file is not there."""
    missing = "  (no such file here)" if any(file and not file.is_file() for file in map(_file, words)) else ""
    return shlex.join([*(words or [UNKNOWN_FILE]), *place]) + missing


def own_study_word(ledger: Path) -> str:
    """The `study=FILE` of a ledger's last command where both are this user's, else "".

    A study file is code, and a directory of results may be other people's.
    """
    for word in naming_words(ledger):
        if (file := _file(word)) and all(_is_ours(path) for path in (file, ledger / STUDY)):
            return word
    return ""


def _file(word: str) -> Path | None:
    """The file that `study=FILE` names; it may be relative to the directory of that command."""
    key, _, value = word.partition("=")
    return Path(value).expanduser() if key == "study" and value.endswith(SUFFIXES) else None


def _is_ours(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_uid == os.geteuid()
    except OSError:
        return False
