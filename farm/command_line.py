"""A command line's words: selectors, which say what files are read, and overrides; and those files as mappings.

Everything that is wrong with them ends in `UsageError` with the nearest right word.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import GrammarParseError, OmegaConfBaseException
from yaml import YAMLError

from farm.checks import nearest, short_path
from farm.errors import UsageError
from farm.settings import Settings

CONF = Path(__file__).resolve().parent / "conf"
TEXTS = ("time", "results", "data_root", "hardware", "title", "module", "ray_address")
"""Keys whose values are text, whatever YAML would make of it."""
QUOTES = "'\""
SELECTORS = ("problem", "study", "profile", "site", "trial")


def split(arguments: list[str]) -> tuple[dict[str, str], dict[str, Any]]:
    """`key=value` words as selectors and as a tree of overrides."""
    for argument in arguments:
        check_utf8(argument)
    check_repeated(arguments)
    selectors: dict[str, str] = {}
    rest: list[str] = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not key:
            hint = f" (did you mean {argument}=…?)" if argument in SELECTORS else ""
            raise UsageError(f"{argument!r} is not key=value{hint}; see --help")
        if key in SELECTORS:
            selectors[key] = value
        elif key in TEXTS and value not in ("", "null"):  # YAML reads 8:00:00 as a number and "a #b" as a comment
            rest.append(f"{key}={json.dumps(value.strip(QUOTES))}")
        else:
            rest.append(argument)
    try:
        tree = OmegaConf.to_container(OmegaConf.from_dotlist(rest))
        assert isinstance(tree, dict)
        return selectors, {str(k): v for k, v in tree.items()}
    except (YAMLError, GrammarParseError) as error:
        reason = str(error).splitlines()[0]
        wrong = next((a for a in rest if not _parses(a)), " ".join(rest))
        raise UsageError(f"{wrong}: the value is not valid YAML ({reason})") from None
    except (OmegaConfBaseException, ValueError, TypeError, IndexError) as error:
        raise UsageError(f"{' '.join(rest)[:200]}: {str(error).splitlines()[0]}") from None


def check_utf8(word: str) -> None:
    """Raise `UsageError` for bytes that are not UTF-8, as the names on an old disk may hold."""
    try:
        word.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(word).decode(errors="backslashreplace")
        raise UsageError(f"{shown}: has bytes that are not UTF-8, which no table and no YAML can hold") from None


def check_repeated(words: list[str]) -> None:
    """Raise `UsageError` where a key, also one inside a mapping, is given twice with different values.

    A mapping is given twice, too, where null or a value stands in its place: merged, the last would win.
    """
    given: dict[str, tuple[str, str]] = {}
    for word in words:
        for key, value in _values(word).items():
            first, before = given.setdefault(key, (word, value))
            if before != value:
                raise UsageError(f"{first} and {word}: {key} stands there twice; say which is meant")
    for key, (word, _) in given.items():
        for above in itertools.accumulate(key.split(".")[:-1], "{}.{}".format):
            first, whole = given.get(above, ("", "{}"))
            if whole != "{}" and above not in SELECTORS:  # trial=ID beside trial.epochs=3 is no value of trial.epochs
                raise UsageError(f"{first} and {word}: {above} stands there twice; say which is meant")


def _values(word: str) -> dict[str, str]:
    """What a word gives to which keys, written as Python does; the text itself where it is text, or no YAML."""
    key, _, value = word.partition("=")
    if key not in (*SELECTORS, *TEXTS):
        with contextlib.suppress(
            YAMLError, GrammarParseError, OmegaConfBaseException, ValueError, TypeError, IndexError
        ):
            return dict(_leaves(OmegaConf.to_container(OmegaConf.from_dotlist([word])), ""))
    return {key: value.strip(QUOTES) if key in TEXTS else value}


def _leaves(tree: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(tree, dict) and tree:
        for name, value in tree.items():
            yield from _leaves(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, repr(tree)


def is_override(word: str) -> bool:
    """Whether a word is key=value, and not a trial's label such as "ddp gpus=2" or "gpus=2 workers=1"."""
    key, equals, value = word.partition("=")
    return bool(equals) and " " not in key and (" " not in value or key in TEXTS or value[0] in "[{" + QUOTES)


def _parses(argument: str) -> bool:
    try:
        OmegaConf.from_dotlist([argument])
    except (YAMLError, GrammarParseError):
        return False
    return True


def study_file(selectors: dict[str, str], others: list[str]) -> Path:
    """The file that `study=` or `problem=` names; `others` are the keys beside them, for the message."""
    problem, study = selectors.get("problem"), selectors.get("study")
    if problem is not None and study not in (None, f"problem{problem}"):
        raise UsageError(f"problem={problem} and study={study}: each names a study; say which is meant")
    if "study" in selectors:
        chosen = selectors["study"]
        if chosen.endswith((".yaml", ".yml")):
            path = Path(chosen).expanduser().absolute()
            if not path.is_file():
                raise UsageError(f"study={chosen}: no such file")
            return path
        return _named_file("study", chosen, CONF / "study")
    if "problem" in selectors:
        name = f"problem{selectors['problem']}"
        if name in studies():
            return CONF / "study" / f"{name}.yaml"
        numbers = [s.removeprefix("problem") for s in studies() if s.removeprefix("problem").isdigit()]
        raise UsageError(f"problem={selectors['problem']}: the problems are {', '.join(numbers)}")
    known = [*SELECTORS, *(f.name for f in dataclasses.fields(Settings))]
    wrong = "".join(f"{k}: no such key{nearest(k, known, prefix='; nearest is ')}. " for k in others if k not in known)
    raise UsageError(f"{wrong}Say which study: problem=4, study=NAME or study=FILE.yaml; see --help")


def site_file(site: str) -> Path:
    """The file of a site, by its name or path."""
    if not site.endswith((".yaml", ".yml")):
        return _named_file("site", site, CONF / "site")
    path = Path(site).expanduser().absolute()
    if not path.is_file():
        raise UsageError(f"site={site}: no such file")
    return path


def _named_file(kind: str, name: str, directory: Path) -> Path:
    names = sorted(p.stem for p in directory.glob("*.yaml"))
    if name not in names:
        raise UsageError(f"{kind}={name}: {nearest(name, names)}{kind} files are {', '.join(names)}")
    return directory / f"{name}.yaml"


def read(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping."""
    try:
        tree = OmegaConf.to_container(OmegaConf.load(path))
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        raise UsageError(f"{short_path(path)}: {error}") from None
    if not isinstance(tree, dict):
        raise UsageError(f"{short_path(path)}: a mapping of keys to values is expected")
    return {str(k): v for k, v in tree.items()}


def studies() -> list[str]:
    """Names of the studies that come with the farm."""
    return sorted(p.stem for p in (CONF / "study").glob("*.yaml"))
