"""Whatever is typed, written in a study's file or left of a ledger: no traceback, no hang, no loss, the right code.

FARM_TEST_EXAMPLES=20 makes twenty times as many examples.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from attempts import attempt, request
from commands import COUNTING
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farm.cli import main
from farm.config import Settings
from farm.ledger.export import export

SMALL = ("executor=inline", "trial.epochs=2", "trial.seconds=0", "back_off_seconds=0", "view=plain", "retries=1")
HANGS_AFTER_SECONDS = 60
FACTOR = int(os.environ.get("FARM_TEST_EXAMPLES", "1"))
few = settings(max_examples=25 * FACTOR, suppress_health_check=[HealthCheck.too_slow])


def command(verb: str, *words: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr of a command run in this process; whatever it raises fails the test."""
    out, err = io.StringIO(), io.StringIO()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    signal.alarm(HANGS_AFTER_SECONDS)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([verb, *words])
    except SystemExit as exit:  # argparse
        code = int(exit.code or 0)
    finally:
        signal.alarm(0)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible, "what comes after it sees other GPUs"
    assert code in (0, 1, 2, 3), (code, err.getvalue())
    assert "Traceback" not in err.getvalue(), err.getvalue()
    return code, out.getvalue(), err.getvalue()


@contextlib.contextmanager
def place() -> Iterator[Path]:
    """An empty directory, for each example anew."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


def judge(verb: str, words: Sequence[str], results: Path) -> None:
    """Run a command and hold its exit code against what it did."""
    code, _, err = command(verb, *words, f"results={results}")
    if code == 2:
        assert not list(results.rglob("trials/*")), "it ran something and then called it a wrong word"
        assert err.startswith(("farm: ", "usage: ")), err
    if verb == "run" and code in (0, 1) and "--dry-run" not in words:
        (plan,) = results.glob("*/export/plan.parquet")
        assert (code == 0) == (set(pq.read_table(plan)["state"].to_pylist()) <= {"done"})


ODD_VALUES = (
    "1", "0", "-1", "2.5", "1e400", "nan", "inf", "null", "true", "''", "9" * 40, "[]", "[1,2]", "[1,1]", "[1,", "{}",
    "{a: 1}", "[[1]]", "x", "é", "${x}", "${oc.env:HOME}", "???", "node", "cpu", "completed", "failed", "\0", "!!x",
)  # fmt: skip
ODD_KEYS = (
    "trial.factor", "trial.end", "trial.end_epoch", "trial.once", "sweep.factor", "sweep.end", "sweep", "zip", "extra",
    "trial", "seeds", "threads", "resources.cpu", "resources.gpu", "resources", "slurm.account", "commit_seconds",
    "keep", "retry", "max_gpu_hours", "time", "nodes", "title", "timed", "hardware", "device", "profile", "site",
)  # fmt: skip
VALUES = st.sampled_from(ODD_VALUES) | st.text(max_size=6)
KEYS = st.sampled_from(ODD_KEYS) | st.text(max_size=6)
OVERRIDES = st.lists(st.builds("{}={}".format, KEYS, VALUES) | st.text(max_size=8), max_size=4)


@few
@given(st.sampled_from(["run", "plan", "export", "report"]), OVERRIDES)
def test_any_overrides(verb: str, overrides: list[str]) -> None:
    with place() as directory:
        safe = [o for o in overrides if not o.startswith(("study=", "problem=", "results="))]
        judge(verb, [f"study={COUNTING}", *safe, *SMALL], directory / "results")


NAMES = st.sampled_from([f for f in Settings.__dataclass_fields__ if f not in ("results", "slurm")]) | st.text(
    max_size=4
)
INNER_NAMES = st.sampled_from(["factor", "end", "cpu", "gpu"]) | NAMES
SCALARS = st.none() | st.booleans() | st.integers(-3, 9) | st.floats() | st.text(max_size=5)
SCALARS |= st.sampled_from(["counting", "cpu", "none", "synthetic", "factor", "failed"])
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(INNER_NAMES, inner, max_size=3),
    max_leaves=6,
)
STUDIES = st.dictionaries(NAMES, TREES, max_size=5)


@few
@given(st.sampled_from(["run", "plan", "export", "report"]), STUDIES, st.integers(0, 400), st.booleans())
def test_any_study_file(verb: str, study: dict[str, Any], length: int, cut: bool) -> None:
    text = yaml.safe_dump({"module": "counting", "data": "none", "device": "cpu"} | study)
    with place() as directory:
        path = directory / "mine.yaml"
        path.write_text(text[:length] if cut else text, encoding="utf-8")
        judge(verb, [f"study={path}", *SMALL], directory / "results")


@few
@given(st.binary(max_size=60))
def test_any_bytes_as_a_study_file(content: bytes) -> None:
    with place() as directory:
        path = directory / "mine.yaml"
        path.write_bytes(content)
        judge("plan", [f"study={path}"], directory / "results")


GRID = (f"study={COUNTING}", "sweep.factor=[1,2,3]", "trial.epochs=5", "commit_seconds=0", *SMALL[2:])
JUNK = ("{}", "[]", "null", "3", '{"how": 3}', '{"files": 3}', '{"seconds": "x"}', '{"parameters": 3}', '{"pid": "x"}')


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with a trial that is done after two attempts, one that has committed, and one that is new."""
    results = tmp_path_factory.mktemp("any") / "results"
    (results / "counting").mkdir(parents=True)
    for factor, stops in ((1, [2, None]), (2, [1, 3])):
        for stop in stops:
            attempt(request(results / "counting", factor=factor, epochs=5), stop_at=stop)
    export(results / "counting", None, "counting")
    assert command("plan", *GRID, f"results={results}")[0] == 0
    return results


def rows(results: Path) -> list[tuple[int, int, int]]:
    table = pq.read_table(results / "counting" / "export" / "epochs.parquet")
    columns = (table[name].to_pylist() for name in ("config_factor", "epoch", "value"))
    return sorted(zip(*columns, strict=True))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, int, int]]:
    results = tmp_path_factory.mktemp("calm") / "results"
    assert command("run", *GRID, "executor=inline", f"results={results}")[0] == 0
    return rows(results)


def damage(path: Path, how: str, chance: random.Random) -> None:
    """Do to a file what crashes, disks and editors do."""
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "junk":
        path.write_text(chance.choice(JUNK))
    elif how == "cut" or not content:
        path.write_bytes(content[: chance.randrange(len(content) + 1)])
    elif how == "flipped":
        at = chance.randrange(len(content))
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :])
    elif how == "other":  # JSON of the right shape, with one value that is not
        value = None
        with contextlib.suppress(ValueError):  # it was damaged before
            value = json.loads(content) if path.suffix == ".json" else None
        if isinstance(value, dict) and value:
            value[chance.choice(sorted(value))] = chance.choice([None, -1, 1e300, "x", [], {}, True, 2**70])
            path.write_text(json.dumps(value))


@few
@given(
    st.lists(st.sampled_from(["missing", "junk", "cut", "flipped", "other"]), min_size=1, max_size=4),
    st.lists(st.sampled_from(["plan", "export", "status", "why", "prune", "report"]), max_size=2),
    st.integers(0, 2**32),
)
def test_any_damage_to_a_ledger(
    ledger: Path, undisturbed: list[tuple[int, int, int]], damages: list[str], verbs: list[str], seed: int
) -> None:
    chance = random.Random(seed)
    with place() as directory:
        results = shutil.copytree(ledger, directory / "results")
        for how in damages:
            files = sorted(p for p in results.rglob("*") if p.is_file())
            damage(chance.choice(files), how, chance)
        for verb in verbs:
            more = {"prune": ["--yes"], "why": ["factor=2"]}.get(verb, [])
            command(verb, *more, *GRID, f"results={results}")
        code, _, err = command("run", *GRID, "executor=inline", f"results={results}")
        assert code == 0, err
        assert rows(results) == undisturbed
