"""Read a study's export (Parquet) into pandas, restricted to the trials of its plan.

The plan says which trials belong to the grid that was asked for, so smoke rows, old revisions and other
datasets that lie in the same ledger never enter a table. Nothing is dropped in silence: what the plan holds
and the rows lack is in `Data.missing`, `Data.ended` says how the rest ended. No matplotlib here.
"""

from __future__ import annotations

import functools
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import yaml

from farm.ledger import schema
from farm.ledger.durable import file_digest, read_json
from farm.ledger.gather import DIGESTS, UNFINISHED
from farm.ledger.scan import STUDY

ROOT = Path(__file__).resolve().parent.parent
FIXED = {"trials": ("trial_id", "name", "status"), "attempts": ("trial_id",), "plan": ("trial_id", "name", "state")}
"""Tables that every export has, beside the row table that the trial module names (mostly "epochs"), or several; and
the columns that nothing can do without. Rows need the trial's id."""


class AnalysisError(Exception):
    """The export cannot be analysed; the text says why and what to do. No traceback is needed."""


@dataclass(frozen=True)
class Data:
    """One study's export. `plan` keeps the grid's order; the other tables hold only trials of the plan.

    `rows` is the row table named `table`, the main one where there are several; `tables` has each by its name.
    `outside` are the finished trials of the ledger that the plan does not hold, by name.
    `digests` maps each file of the export to its SHA-256.
    """

    study: str
    directory: Path
    table: str
    rows: pd.DataFrame
    trials: pd.DataFrame
    attempts: pd.DataFrame
    plan: pd.DataFrame
    digests: dict[str, str]
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    outside: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def module(self) -> str:
        """The trial module of the plan; empty where nothing is planned."""
        return _module(self.plan)

    @property
    def missing(self) -> pd.DataFrame:
        """Trials of the plan that have no end yet: state partial, new, failed or unschedulable."""
        return self.plan[self.plan["state"] != "done"]

    @functools.cached_property
    def unfinished(self) -> Mapping[str, pd.DataFrame]:
        """Rows so far of the trials in `missing`, by row table, as their newest commits had them at the last export.

        Read when it is first asked for, which no report does. Raises `AnalysisError` where a file is damaged.
        """
        without_end = set(self.missing["trial_id"])
        paths = {name: self.directory / "export" / UNFINISHED / f"{name}.parquet" for name in self.tables}
        return {n: _only(_read(p), without_end) if p.exists() else self.tables[n].iloc[:0] for n, p in paths.items()}

    @property
    def datasets(self) -> list[str]:
        """Names of the datasets that the trials with results were of; of the plan's where there are no results."""
        frame = self.trials if len(self.trials) else self.plan
        return sorted(map(str, frame["config_dataset"].dropna().unique())) if "config_dataset" in frame else []

    def ended(self, status: str) -> list[str]:
        """Ids of the done trials with a status ("completed", "oom" or "diverged"), in the plan's order."""
        found = set(self.trials.loc[self.trials["status"] == status, "trial_id"])
        return [str(i) for i in self.plan["trial_id"] if i in found]

    def rows_of(self, trial_ids: list[str] | tuple[str, ...]) -> pd.DataFrame:
        """The rows of some trials."""
        return self.rows[self.rows["trial_id"].isin(list(trial_ids))]


def study_directory(study: str) -> Path:
    """Where notebooks read a study: the first that has its export of $FARM_RESULTS, analysis/reference/ (measured on
    real GPUs) and the checkout's results/. Raises `AnalysisError` where none has."""
    given = os.environ.get("FARM_RESULTS")
    places = [Path(given)] if given else [ROOT / "analysis" / "reference", ROOT / "results"]
    for place in places:
        if any((place / study / "export").glob("*.parquet")):
            return place / study
    names = " or ".join(str(p) for p in places)
    raise AnalysisError(f"{study}: no export in {names}; `farm run {study_word(places[-1] / study)}` makes one")


def study_word(study_dir: Path) -> str:
    """How a command names the study of a ledger: a study of the farm's own by name, a user's by its YAML file, where
    the ledger's last run had it."""
    name = study_dir.name
    if (ROOT / "farm" / "conf" / "study" / f"{name}.yaml").is_file():
        return f"study={name}"
    try:
        with (study_dir / STUDY).open(encoding="utf-8") as file:
            words = shlex.split(file.readline().removeprefix("#"))
    except (OSError, ValueError):
        words = []
    word = next((word for word in words if word.startswith("study=")), f"study=PATH/TO/{name}.yaml")
    return shlex.quote(word)


def load(study_dir: Path) -> Data:
    """Read `<study_dir>/export/`. Raises `AnalysisError` where it is absent, incomplete or contradictory."""
    export = study_dir / "export"
    files = {path.stem: path for path in sorted(export.glob("*.parquet"))}
    study = study_dir.name
    command = f"`farm export {study_word(study_dir)}`"
    if not files:
        raise AnalysisError(f"{export}: no export there; {command} writes one")
    if lacking := [name for name in FIXED if name not in files]:
        raise AnalysisError(f"{export}: {lacking[0]}.parquet is missing; {command} rebuilds it")
    found, written = digests(study_dir), read_json(export / DIGESTS) or {}
    if wrong := [name for name, digest in found.items() if written.get(name, digest) != digest]:
        raise AnalysisError(f"{export}/{wrong[0]}: not what was exported, it is damaged; {command} mends it")
    row_tables = [name for name in files if name not in FIXED]
    frames = {name: _read(path) for name, path in files.items()}
    for name, frame in frames.items():
        if lacking := [column for column in FIXED.get(name, ("trial_id",)) if column not in frame]:
            raise AnalysisError(f"{files[name]}: no column {lacking[0]!r}, which all exports have; {command} adds it")
    plan = frames["plan"]
    main = _main_table(export, row_tables, plan)
    done = set(plan.loc[plan["state"] == "done", "trial_id"])
    kept = {name: _only(frame, done) for name, frame in frames.items() if name in ("trials", *row_tables)}
    data = Data(
        study=study,
        directory=study_dir,
        table=main,
        rows=kept[main],
        trials=kept["trials"],
        attempts=_only(frames["attempts"], set(plan["trial_id"])),
        plan=plan,
        digests=found,
        tables={name: kept[name] for name in row_tables},
        outside=frames["trials"][~frames["trials"]["trial_id"].isin(plan["trial_id"])].sort_values("name"),
    )
    _check(data, done)
    return data


def _main_table(export: Path, found: list[str], plan: pd.DataFrame) -> str:
    """The only row table, or the first of the trial module's `TABLES`."""
    if len(found) == 1:
        return found[0]
    module = _module(plan)
    declared = list(schema.row_tables(module)) if module else []
    if sorted(declared) != sorted(found):
        fixed, names = ", ".join(FIXED), ", ".join(found) or "none"
        expected = "one row table is" if len(declared) < 2 else f"the row tables {', '.join(declared)} are"
        raise AnalysisError(f"{export}: {expected} expected beside {fixed}, found {names}")
    return declared[0]


def _module(plan: pd.DataFrame) -> str:
    return str(plan["config_module"].iloc[0]) if "config_module" in plan and len(plan) else ""


def title(study_dir: Path) -> str:
    """`title:` of the study's YAML, as the ledger's last run had it, else the study's name."""
    try:
        tree = yaml.safe_load((study_dir / STUDY).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        tree = None
    found = tree.get("title") if isinstance(tree, dict) else None
    return " ".join(str(found or study_dir.name).split())


def digests(study_dir: Path) -> dict[str, str]:
    """SHA-256 of every Parquet file of the export, by file name; empty where there is none."""
    paths = sorted((study_dir / "export").glob("*.parquet"))
    return {path.name: file_digest(path) for path in paths}


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        reason = str(error).splitlines()[0]
        raise AnalysisError(f"{path}: not readable as Parquet ({reason}); `farm export` mends it") from None


def _only(frame: pd.DataFrame, trial_ids: set[str]) -> pd.DataFrame:
    return frame[frame["trial_id"].isin(list(trial_ids))].reset_index(drop=True)


def _check(data: Data, done: set[str]) -> None:
    """An export that contradicts itself would give wrong numbers that look right."""
    export = data.directory / "export"
    if lost := done - set(data.trials["trial_id"]):
        raise AnalysisError(
            f"{export}: {sorted(lost)[0]} is done in plan.parquet and absent from trials.parquet; "
            f"`farm export {study_word(data.directory)}` rebuilds both"
        )
    if twice := data.trials["trial_id"][data.trials["trial_id"].duplicated()].tolist():
        raise AnalysisError(f"{export}: trial {twice[0]} is in trials.parquet twice")
    if data.table == "epochs" and data.rows.duplicated(["trial_id", "epoch"]).any():
        row = data.rows[data.rows.duplicated(["trial_id", "epoch"])].iloc[0]
        raise AnalysisError(f"{export}: epoch {row['epoch']} of {row['trial_id']} is there twice")
