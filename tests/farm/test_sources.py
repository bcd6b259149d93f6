"""Which code made a result: digests of a trial's own sources, also where they change while it runs or waits."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from attempts import attempt, directory, request
from commands import COUNTING, ROOT, run_farm

from farm import config as configuration
from farm import provenance
from farm.ledger.scan import progress
from farm.study import make_plan
from farm.view import note

STUDY = "study: own\nproblem: own\nmodule: own\ndata: none\ndevice: cpu\nresources: {cpu: 1, gpu: 0}\n"
MODULE = """\
from dataclasses import dataclass
from pathlib import Path

from trials.spec import Outcome, parameter

REVISION = 1


@dataclass(frozen=True)
class Parameters:
    number: int = parameter(0, "tells the trials apart")
    epochs: int = parameter(2, "epochs", minimum=1)


def run(spec, context):
    first = (context.state or {"epoch": 0})["epoch"] + 1
    for epoch in range(first, spec.parameters["epochs"] + 1):
        import helper

        yield [{"epoch": epoch, "train_loss": helper.LOSS}], lambda epoch=epoch: {"epoch": epoch}
        BETWEEN
    return Outcome("completed", {})
"""


def write_study(path: Path, between: str) -> list[str]:
    (path / "own.yaml").write_text(STUDY)
    (path / "own.py").write_text(MODULE.replace("BETWEEN", between))
    (path / "helper.py").write_text("LOSS = 1.0\n")
    return [f"study={path / 'own.yaml'}", "commit_seconds=0", "view=plain"]


def table(path: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(path / "results" / "own" / "export" / f"{name}.parquet").sort_values("name")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("statement", "files"),
    [
        ("import one", {"one"}),
        ("def run():\n    from one import x", {"one"}),
        ("import lib.two", {"lib", "lib.two"}),
        ("from lib import two, absent", {"lib", "lib.two"}),
        ("from lib.three import x", {"lib", "lib.three", "lib.two", "lib.deep", "lib.deep.four", "one"}),
        ("import broken", {"broken"}),
        ("import numpy, json, farm.plan, analysis.load, absent, random, installed, shadowed", {"shadowed"}),
        ("import space.five", {"space.five"}),
    ],
)
def test_files_beside_a_module_are_its_sources(
    home: Path, monkeypatch: pytest.MonkeyPatch, statement: str, files: set[str]
) -> None:
    for folder in ("lib/deep", "space", "shadowed", "installed-1.0.dist-info"):
        (home / folder).mkdir(parents=True)
    texts = {
        "one": "x = 1",
        "lib/__init__": "",
        "lib/two": "x = 2",
        "lib/three": "from . import two\nfrom .deep.four import x",
        "lib/deep/__init__": "",
        "lib/deep/four": "from ..two import x\nfrom one import x",
        "broken": "def",
        "random": "x = 1",  # the library's comes first
        "installed": "x = 1",
        "shadowed/__init__": "",  # a package goes before a module of its name
        "shadowed": "import one",
        "space/five": "x = 5",
        "unused": "",
    }
    for name, text in texts.items():
        (home / f"{name}.py").write_text(text)
    monkeypatch.setattr(sys, "path", [*sys.path[1:], str(home)])  # last, as a study's directory is
    importlib.invalidate_caches()
    (home / "made_of_files.py").write_text(statement)
    assert set(provenance._sources("made_of_files")) == {"made_of_files", *files}


def test_a_package_of_ones_own_is_a_source_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "site-packages"
    (home / "mine").mkdir(parents=True)
    texts = {"mine/__init__": "", "mine/study": "from . import net\nimport other", "mine/net": "", "other": ""}
    for name, text in texts.items():
        (home / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(home))
    assert set(provenance._sources("mine.study")) == {"mine", "mine.study", "mine.net"}


def test_a_study_in_the_checkouts_root_has_sources(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "ROOT", home)
    (home / "at_root.py").write_text("import beside_at_root, farm.plan")
    (home / "beside_at_root.py").write_text("")
    assert set(provenance._sources("at_root")) == {"at_root", "beside_at_root"}


def test_a_source_that_cannot_be_read_fails_no_trial(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = home / "helper_of_losing.py"
    gone.write_text("x = 1")
    (home / "losing.py").write_text("import helper_of_losing")
    first = provenance.source_digest("losing")
    gone.write_text("x = 22")
    read = Path.read_bytes

    def vanished(path: Path) -> bytes:
        if path == gone:
            raise FileNotFoundError(2, "No such file or directory")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", vanished)
    assert provenance.source_digests("losing")[0] == first
    assert len(provenance.source_digests("losing")) == 2


def test_sources_of_a_problem_are_what_it_imports_of_trials() -> None:
    found = provenance._sources("trials.problem4")
    assert {"trials.problem4", "trials.engine", "trials.fused_conv", "trials.seeding"} < set(found)
    assert all(name.startswith("trials.") for name in found)
    assert "trials.problem2" not in found


def test_a_digest_stays_that_of_the_code_that_was_imported(home: Path) -> None:
    helper = home / "helper_of_changing.py"
    helper.write_text("x = 1")
    (home / "changing.py").write_text("import helper_of_changing")
    first = provenance.source_digest("changing")
    assert provenance.source_digests("changing") == [first]
    helper.write_text("x = 2 ")
    now = provenance.source_digests("changing")
    assert (now[0], len(set(now))) == (first, 2)
    assert provenance.source_digest("changing") == first
    helper.write_text("x = 1")  # touched, and the same
    assert provenance.source_digests("changing") == [first]
    helper.unlink()
    assert len(provenance.source_digests("changing")) == 2


def test_what_goes_on_from_other_sources_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = request(tmp_path / "results" / "counting", epochs=9)
    with monkeypatch.context() as then:
        then.setattr(provenance, "source_digests", lambda module: ["old"])
        attempt(wanted, stop_at=2)
    begun = progress(directory(wanted))
    assert (begun.state, begun.source_digest) == ("partial", "old")
    words = [f"study={COUNTING}", f"results={tmp_path / 'results'}", "trial.epochs=9", "sweep.factor=[1]"]
    trial = make_plan(configuration.load(words)).trials[0]
    assert trial.stale
    assert note(trial) == f"goes on after epoch {begun.epoch}, made by other sources under the same REVISION"

    with monkeypatch.context() as meanwhile:  # edited when it begins, and as before when it ends
        answers = iter([["new", "other"]])
        meanwhile.setattr(provenance, "source_digests", lambda module: next(answers, ["new"]))
        attempt(wanted, stop_at=5)
    assert progress(directory(wanted)).source_digest == "old, new, other"
    attempt(wanted)
    today = provenance.source_digest("counting")
    assert progress(directory(wanted)).source_digest == f"old, new, other, {today}"
    assert make_plan(configuration.load(words)).trials[0].stale


@pytest.mark.parametrize("executor", ["inline", "ray"])
def test_an_edit_while_a_study_runs_is_seen_in_its_results(tmp_path: Path, executor: str) -> None:
    edit = 'Path(__file__).with_name("helper.py").write_text("LOSS = 2.0\\n")'
    words = write_study(tmp_path, edit)
    before = _digest(tmp_path)
    done = run_farm(tmp_path, *words, f"executor={executor}", "cpus=1", "sweep.number=[1,2]")
    assert done.code == 0, done.err
    digests = set(table(tmp_path, "trials")["source_digest"])
    after = _digest(tmp_path)
    assert digests == {f"{before}, {after}"}
    attempts = table(tmp_path, "attempts")
    assert attempts.sort_values("started_at")["source_digest"].tolist() == [before, f"{before}, {after}"]
    assert "2 done trials come from other sources under the same REVISION" in done.out


def test_going_on_after_an_edit_is_announced_and_recorded(tmp_path: Path) -> None:
    broken = 'raise ValueError("a bug")'
    words = [*write_study(tmp_path, broken), "executor=inline", "sweep.number=[1]"]
    before = _digest(tmp_path)
    assert run_farm(tmp_path, *words).code == 1
    (tmp_path / "own.py").write_text(MODULE.replace("BETWEEN", ""))
    (tmp_path / "helper.py").write_text("LOSS = 5.0\n")
    again = run_farm(tmp_path, *words, "retry=failed")
    assert again.code == 0, again.err
    assert "1 trial will go on from epochs that other sources made under the same REVISION" in again.err
    assert table(tmp_path, "epochs")["train_loss"].tolist() == [1.0, 5.0]
    assert table(tmp_path, "trials")["source_digest"].tolist() == [f"{before}, {_digest(tmp_path)}"]
    assert table(tmp_path, "attempts")["source_digest"].tolist() == [before, _digest(tmp_path)]


def test_a_changed_helper_marks_what_is_done(tmp_path: Path) -> None:
    words = [*write_study(tmp_path, ""), "executor=inline"]
    assert run_farm(tmp_path, *words, "sweep.number=[1]").code == 0
    (tmp_path / "helper.py").write_text("LOSS = 100.0\n")
    more = run_farm(tmp_path, *words, "sweep.number=[1,2]")
    assert "1 done trial comes from other sources under the same REVISION" in more.out


def _digest(path: Path) -> str:
    """Of the study in a directory, by a process of its own."""
    code = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(path)!r}]; from farm import provenance; "
    command = [sys.executable, "-c", code + "print(provenance.source_digest('own'))"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
