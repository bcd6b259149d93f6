"""The text of --help: every key with unit, range and default, and examples that work."""

from __future__ import annotations

import dataclasses
from typing import Any

from farm import config as configuration
from farm import elsewhere
from farm.checks import range_text

EXAMPLES = """Examples:
  python farm/run.py problem=4 profile=smoke
  python farm/run.py problem=4 sweep.M=[2,4] trial.epochs=10 seeds=[0,1,2] data_root=/data/cifar10
  python farm/run.py study=my_study.yaml results=/scratch/me/results --dry-run"""

SELECTORS = {
    "problem": "N is short for the study problemN",
    "study": "a study's name, or the path of a YAML file",
    "profile": "one of the study's profiles; `smoke` shrinks everything for a laptop",
    "site": "a file of farm/conf/site, or the path of a YAML file",
    "trial": "ids of trials of the grid, or how they begin, with commas between: run these alone",
}
ENDS = """Ctrl-C, SIGTERM, SIGUSR1 and SIGHUP (the terminal has gone; not under nohup) end it in order, and the same
command goes on. Exit codes: 0 all trials are complete; 1 a trial failed or fits no node; 2 a wrong word; 3 refused
before anything ran; 75 stopped by SIGTERM, SIGUSR1 or SIGHUP; 130 interrupted by Ctrl-C."""
OUT = """out=DIRECTORY: tables and report go there, and the results stay as they are (other people's, or read-only)."""
NOTES = {
    "report": OUT,
    "export": OUT,
    "run": ENDS,
    "reproduce": ENDS,
    "status": "Without a study (farm status, farm status results=DIRECTORY): a line for every study that has results.",
}
USAGE = "usage: {command} key=value … {flags}"
FLAGS = {
    "run": "[--dry-run] [--json] [--cfg]",
    "plan": "[--json] [--cfg]",
    "report": "[--check] [out=DIRECTORY]",
    "export": "[out=DIRECTORY]",
    "prune": "[--yes]",
    "submit": "[--dry-run]",
    "up": "[--dry-run]",
    "status": "[--watch] [--json]",
}


def text(verb: str, overrides: list[str]) -> str:
    """Help for a verb; with a study named, its parameters too, and all values as that study and the words have them."""
    if NOTES.get(verb) is OUT:
        overrides = elsewhere.split(overrides)[0]
    config = configuration.load(overrides) if overrides else None
    settings = config.settings if config is not None else configuration.Settings()
    command = {"run": "python farm/run.py", "why": "farm why TRIAL"}.get(verb, f"farm {verb}")
    lines = [USAGE.format(command=command, flags=FLAGS.get(verb, "")).rstrip(), "", "Selectors:"]
    lines += [_line(name, "", "", meaning) for name, meaning in SELECTORS.items()]
    lines += ["", f"Studies: {', '.join(configuration.studies())}", "", "Keys:"]
    lines += _fields(settings, "")
    lines += _fields(settings.resources, "resources.")
    lines += _fields(settings.slurm, "slurm.")
    if config is not None:
        lines += ["", f"Parameters of a trial of {config.study} (trial.KEY=VALUE, or sweep.KEY=[VALUES]):"]
        lines += _fields(settings.trial, "trial.")
    else:
        lines += ["", "With a study named (problem=4 --help), the parameters of its trials are listed too."]
    if verb in NOTES:
        lines += ["", NOTES[verb]]
    return "\n".join([*lines, "", EXAMPLES])


def _fields(values: Any, prefix: str) -> list[str]:
    lines = []
    for f in dataclasses.fields(values):
        value = getattr(values, f.name)
        if dataclasses.is_dataclass(value) or f.name == "trial":
            continue
        bounded = any(f.metadata.get(k) is not None for k in ("choices", "minimum", "maximum"))
        about = ", ".join(filter(None, [str(f.metadata.get("unit", "")), range_text(f.metadata) if bounded else ""]))
        lines.append(_line(f"{prefix}{f.name}", value, about, f.metadata["help"]))
    return lines


def _line(name: str, value: Any, about: str, meaning: str) -> str:
    shown = "" if value is None or value == "" else f"={value}"
    return f"  {name + shown:<34} {meaning}{f' [{about}]' if about else ''}"
