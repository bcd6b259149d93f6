"""Bad input, typed as a user types it: a clear line, the right exit code, no traceback, nothing earned is lost."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from http.client import IncompleteRead, RemoteDisconnected
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pyarrow.parquet as pq
import pytest
import two_tables
from attempts import attempt, directory, request
from commands import COUNTING, Finished, exported

from farm import config as configuration
from farm import study
from farm.attempt import Request, StopFlag, run_attempt
from farm.cli import main
from farm.slurm.submit import allocation_plan
from trials.spec import Scalar, Spec

SMOKE = ("problem=4", "profile=smoke")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("probelm=4",), 2, "nearest is problem"),
        (("problem",), 2, "problem=…"),
        (("problem=9",), 2, "the problems are 1, 2, 3, 4"),
        ((*SMOKE, "trial.epochs=ten"), 2, "trial.epochs"),
        ((*SMOKE, "trial.epochs=-1"), 2, "a number from 1 to 100000"),
        ((*SMOKE, "trial.epohcs=3"), 2, "nearest is trial.epochs"),
        (
            (*SMOKE, "trial.epochs=3", "trial.epochs=5"),
            2,
            "trial.epochs=3 and trial.epochs=5: trial.epochs stands there twice",
        ),
        ((*SMOKE, "problem=3"), 2, "problem=4 and problem=3"),
        ((*SMOKE, "sweep.M=[]"), 2, "sweep.M"),
        ((*SMOKE, "sweep.M=[0]"), 2, "a number from 1 to 1024"),
        ((*SMOKE, "sweep.M=[2"), 2, "not valid YAML"),
        ((*SMOKE, "trial.M=2"), 2, "sweep.M=[2] sets it"),
        ((*SMOKE, "trial.shortcut=projektion"), 2, "projection"),
        (("problem=1", "profile=smoke", "sweep.method=[adamw]"), 2, "adadelta"),
        ((*SMOKE, "ray_address=http://127.0.0.1:8265"), 2, "HOST:PORT"),
        ((*SMOKE, "data=cifar10", "data_root=/nowhere"), 3, "/nowhere"),
        (("problem=4", "resources.gpu=99", "hardware=H", "data_root=/nowhere"), 3, "/nowhere"),
        ((*SMOKE, "results=/proc/farm"), 3, "cannot be written"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(
    farm: Callable[..., Finished], words: tuple[str, ...], code: int, says: str
) -> None:
    done = farm(*words)
    assert (done.code, "Traceback" in done.err) == (code, False), done.err
    assert says in done.err, done.err
    assert len(done.err.strip().splitlines()) == 1, done.err


def test_what_is_refused_is_not_the_last_command(farm: Callable[..., Finished], tmp_path: Path) -> None:
    assert farm(f"study={COUNTING}", "executor=inline").code == 0
    kept = (tmp_path / "results" / "counting" / "study.yaml").read_text()
    refused = farm(f"study={COUNTING}", "executor=inline", "data=cifar10", "data_root=/nowhere", "sweep.factor=[9]")
    assert (refused.code, (tmp_path / "results" / "counting" / "study.yaml").read_text()) == (3, kept)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            (*SMOKE, "data_root=/nowhere"),
            "farm: data_root= is not read by these trials: data=synthetic; data=cifar10 trains on it\n",
        ),
        ((f"study={COUNTING}", "data_root=/nowhere"), "farm: data_root= is not read by these trials: data=none\n"),
        ((*SMOKE, "data_root="), ""),
        ((*SMOKE, "data=cifar10", "data_root=/nowhere"), ""),
        (SMOKE, ""),
    ],
)
def test_a_directory_of_data_that_is_not_read_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: str
) -> None:
    assert main(["plan", *words, f"results={tmp_path}"]) == 0
    said = capsys.readouterr().err.splitlines(keepends=True)
    assert "".join(line for line in said if "is not read" in line) == says


def test_a_run_says_it_too_and_runs(farm: Callable[..., Finished]) -> None:
    done = farm(f"study={COUNTING}", "executor=inline", "data_root=/nowhere")
    assert (done.code, done.err) == (0, "farm: data_root= is not read by these trials: data=none\n")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("resources.gpu=2", "gpus=0"), "0 GPUs; resources.gpu=0 runs without"),  # the study has device=cpu
        (("resources.gpu=2", "gpus=0", "device=auto"), "0 GPUs; device=cpu resources.gpu=0 runs without"),
    ],
)
def test_only_what_is_not_so_yet_is_advised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: str
) -> None:
    assert main(["plan", f"study={COUNTING}", f"results={tmp_path}", *words]) == 1
    assert says in capsys.readouterr().out


@pytest.mark.parametrize(
    ("verb", "says"),
    [
        ("sumbit", "sumbit: no such verb; nearest is submit; see farm --help"),
        ("stat", "stat: no such verb; nearest is status; see farm --help"),
        ("problem=4", "problem=4: no such verb; see farm --help"),
    ],
)
def test_a_wrong_verb_is_named_with_the_right_one(capsys: pytest.CaptureFixture[str], verb: str, says: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([verb, "problem=4"])
    assert capsys.readouterr().err.splitlines()[-1] == f"farm: error: {says}"


@pytest.mark.parametrize(
    "error",
    [
        URLError(OSError(-2, "Name or service not known")),
        RemoteDisconnected("closed"),
        IncompleteRead(b""),
        RuntimeError("File not found or corrupted."),
    ],
)
def test_data_that_cannot_be_downloaded_are_asked_of_their_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("torchvision.datasets.CIFAR10.__init__", fails)
    assert main(["data", "fetch", f"data_root={tmp_path}"]) == 3
    told = capsys.readouterr().err
    assert told.startswith("farm: https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz cannot be downloaded (")
    assert told.endswith("; farm run … data_root=DIRECTORY takes data that are there\n")


def test_inline_without_a_gpu_is_told_before_anything_starts(farm: Callable[..., Finished]) -> None:
    words = (f"study={COUNTING}", "executor=inline", "resources.gpu=1", "device=auto", "gpus=0")
    done = farm(*words)
    assert (done.code, "needs 1 GPU; there are 0; device=cpu resources.gpu=0 runs without" in done.out) == (1, True)
    assert farm(*words[:3], "device=cpu", "gpus=0").code == 0


@pytest.mark.parametrize("more", [("executor=inline",), ()])
def test_cuda_without_a_gpu_is_told_before_anything_starts(
    farm: Callable[..., Finished], more: tuple[str, ...]
) -> None:
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    words = (f"study={COUNTING}", "device=cuda", *more)
    for verb in ("plan", "run"):
        done = farm(*words, verb=verb, variables=hidden)
        says = "device=cuda, and this machine has no GPU; device=cpu runs without"
        assert (done.code, says in done.out, "attempt" in done.out) == (1, True, False), done.out
    there = farm(*words, "gpus=1", verb="plan", variables=hidden)
    says = "device=cuda, and the trial reserves no GPU; resources.gpu=1 reserves one"
    assert (there.code, says in there.out) == ((0, False) if more else (1, True)), there.out
    assert farm(*words, "gpus=1", "resources.gpu=1", verb="plan", variables=hidden).code == 0


def test_only_this_machine_can_be_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    words = [f"study={COUNTING}", f"results={tmp_path}", "device=cuda"]
    assert [n.cuda for n in study.local_nodes(configuration.load(words))] == [False]
    assert [n.cuda for n in study.local_nodes(configuration.load([*words, "gpus=2"]))] == [True]
    assert study.local_nodes(configuration.load([*words, "ray_address=10.0.0.1:6379"])) == []
    assert {t.state for t in allocation_plan(configuration.load([*words, "resources.gpu=1"])).trials} == {"new"}


def test_inline_holds_nothing_against_gpus_that_are_named_and_not_numbered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configuration.load([f"study={COUNTING}", "executor=inline", "device=auto", f"results={tmp_path}"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-41b36219-816c-5ba4-b7d3-d2c4ba6ba4e5")
    assert study.local_nodes(config) == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert [node.gpu for node in study.local_nodes(config)] == [0]


def test_a_mistake_costs_nothing_already_earned(farm: Callable[..., Finished], tmp_path: Path) -> None:
    earned = request(tmp_path / "results" / "counting")
    attempt(earned)
    before = sorted(p.stat().st_mtime_ns for p in directory(earned).rglob("*"))
    assert farm(f"study={COUNTING}", "sweep.factor=[0.5]").code == 2
    assert sorted(p.stat().st_mtime_ns for p in directory(earned).rglob("*")) == before
    assert farm(f"study={COUNTING}", "sweep.factor=[1]", "executor=inline").code == 0
    assert [r["attempt"] for r in exported(tmp_path / "results", "counting", "attempts")] == [1]


@pytest.mark.parametrize(
    "text", ["profiles: [smoke]", "profiles: {smoke: 3}", "trial:", "module: .x", "sweep: {factor: }"]
)
def test_a_mistake_in_a_study_file_is_told_without_a_traceback(
    farm: Callable[..., Finished], tmp_path: Path, text: str
) -> None:
    study = tmp_path / "mine.yaml"
    study.write_text(f"{text}\n" if text.startswith("module") else f"module: trials.problem4\n{text}\n")
    done = farm(f"study={study}", "profile=smoke")
    assert (done.code, "Traceback" in done.err) == (2, False), done.err


@pytest.mark.parametrize(
    ("module", "says"),
    [
        ("REVISION = 1\nParameters = 3", "module: own: TypeError: must be called with a dataclass"),
        (
            'REVISION = 1\n@dataclass\nclass Parameters:\n    x: float = parameter("x", "")',
            "own: Parameters: x: Value 'x'",
        ),
        (
            'REVISION = 1\n@dataclass\nclass Parameters:\n    x: "No" = parameter(1, "")',
            "own: NameError: name 'No' is not",
        ),
        (
            "@dataclass\nclass Parameters:\n    x: int = parameter(1, '')",
            "own: REVISION = 1 is missing: the number that is raised when old results do not compare",
        ),
        (
            "REVISION = 1\n@dataclass\nclass Parameters:\n    layers: list[int] = parameter(None, '')",
            "own: Parameters.layers: list[int]; int, float, str or bool, each perhaps with None, is expected",
        ),
        (
            "from pathlib import Path\nREVISION = 1\n@dataclass\nclass Parameters:\n"
            "    place: Path | None = parameter(None, '')",
            "own: Parameters.place: pathlib.Path | None; int, float, str or bool",
        ),
        (
            "REVISION = 1\n@dataclass\nclass Parameters:\n    size: int | str = parameter(1, '')",
            "own: Parameters.size: int | str; int, float, str or bool",
        ),
        (
            "REVISION = 1\n@dataclass\nclass Parameters:\n    x: int = parameter(1, '')\n"
            "def resolve(parameters):\n    return {'x': parameters['x'] / 2}",
            "own: Parameters.x: int is expected, and not 0.5",
        ),
        (
            "REVISION = 1\n@dataclass\nclass Parameters:\n    x: int = parameter(1, '')\n"
            "def resolve(parameters):\n    return parameters | {'y': 2}",
            "own.resolve: y is no parameter",
        ),
        *(
            (f"REVISION = 1\n@dataclass\nclass Parameters:\n    x: int = parameter(1, '')\n{declared}", says)
            for declared, says in (
                (
                    "COLUMNS = (Column('x', 'int'))",
                    "own.COLUMNS: a tuple of Column is expected; (Column(…),) has a comma",
                ),
                ("COLUMNS = ('x',)", "own.COLUMNS: 'x' is no Column; Column('x', …) declares it"),
                ("COLUMNS = [Column('x', k) for k in ('int', 'str')]", "column 'x' is declared as str, and as int too"),
                (
                    "COLUMNS = (Column('x', 'double'),)",
                    "Column('x', 'double'): its type is one of int, float, str, bool",
                ),
                (
                    "COLUMNS = (Column('x', 'int', better='max'),)",
                    "better='max'): lower, higher or nothing is expected",
                ),
                ("SUMMARY = Column('x', 'int')", "own.SUMMARY: a tuple of Column is expected"),
                (
                    "SUMMARY = (Column('seconds', 'int'),)",
                    "'seconds' is declared as int, and as float in farm/ledger/schema.py",
                ),
                ("TABLE = 3", "own.TABLE: the name of its row table is expected, and not 3"),
                ("TABLES = ('steps',)", "own.TABLES: a dict of tables by their names is expected"),
                ("TABLES = {'a': ('epoch')}", "own.TABLES['a']: a tuple of Column is expected"),
                ("TABLES = {'a': ('epcoh',)}", "own.TABLES['a']: 'epcoh' is no column of farm/ledger/schema.py"),
                (
                    "TABLES = {'a': (Column('x', 'int'),), 'b': (Column('x', 'str'),)}",
                    "TABLES of own: column 'x' of b has another type elsewhere",
                ),
            )
        ),
    ],
)
def test_a_trial_module_that_declares_wrongly_is_one_line(
    farm: Callable[..., Finished], tmp_path: Path, module: str, says: str
) -> None:
    (tmp_path / "own.py").write_text(
        f"from dataclasses import dataclass\nfrom trials.spec import Column, parameter\n{module}\n"
    )
    (tmp_path / "own.yaml").write_text("module: own\ndata: none\ndevice: cpu\n")
    done = farm(f"study={tmp_path / 'own.yaml'}", "executor=inline")
    assert (done.code, len(done.err.splitlines())) == (2, 1), done.err
    assert done.err.startswith("farm: ")
    assert says in done.err


def test_names_to_choose_from_may_be_a_literal_or_an_enum_of_texts(
    farm: Callable[..., Finished], tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(
        "import enum\nfrom dataclasses import dataclass\nfrom typing import Literal\nimport numpy as np\n"
        "from trials.spec import Outcome, parameter\nREVISION = 1\n"
        "class Kind(str, enum.Enum):\n    one = 'one'\n    two = 'two'\n"
        "@dataclass\nclass Parameters:\n    form: Literal['a', 'b'] = parameter('a', '')\n"
        "    kind: Kind = parameter(Kind.one, '')\n    rate: float = parameter(0.5, '')\n"
        "def resolve(parameters):\n    return parameters | {'rate': np.float32(0.25)}\n"
        "def run(spec, context):\n    yield [{'epoch': 1, 'train_loss': spec.parameters['rate']}], None\n"
        "    return Outcome('completed', {})\n"
    )
    (tmp_path / "own.yaml").write_text("module: own\ndata: none\ndevice: cpu\nsweep: {form: [a, b]}\n")
    done = farm(f"study={tmp_path / 'own.yaml'}", "executor=inline")
    assert done.code == 0, done.err
    rows = pq.read_table(next(tmp_path.rglob("export/trials.parquet"))).to_pylist()
    assert sorted((r["config_form"], r["config_kind"], r["config_rate"]) for r in rows) == [
        ("a", "one", 0.25),
        ("b", "one", 0.25),
    ]


OWN = """
import argparse, sys
from dataclasses import dataclass
from trials.spec import parameter
REVISION = 1
@dataclass
class Parameters:
    x: int = parameter(1, "")
def check(parameters):
    print("a note")
"""


@pytest.mark.parametrize(
    "end", ["sys.exit(0)", "p = argparse.ArgumentParser(); p.add_argument('--lr', required=True); p.parse_args()"]
)
def test_a_script_in_place_of_a_module_is_told_that_it_ends_the_process(
    farm: Callable[..., Finished], tmp_path: Path, end: str
) -> None:
    (tmp_path / "own.py").write_text(f"{OWN}{end}\n")
    (tmp_path / "own.yaml").write_text("module: own\ndata: none\ndevice: cpu\n")
    done = farm(f"study={tmp_path / 'own.yaml'}", "executor=inline")
    told = "farm: module: own ends the process when it is imported; keep that under if __name__ == '__main__'"
    assert (done.code, done.err.splitlines()[-1]) == (2, told)


def test_a_module_sees_no_words_of_the_farm_and_prints_nothing_between_them(
    farm: Callable[..., Finished], tmp_path: Path
) -> None:
    reads = "p = argparse.ArgumentParser(); p.add_argument('words', nargs='*'); print(p.parse_args().words)"
    (tmp_path / "own.py").write_text(f"{OWN}{reads}\n")
    (tmp_path / "own.yaml").write_text("module: own\ndata: none\ndevice: cpu\n")
    done = farm(f"study={tmp_path / 'own.yaml'}", "--json", verb="plan")
    assert (done.code, json.loads(done.out)["counts"]["new"]) == (0, 1), done.err
    assert done.err.splitlines()[:2] == ["[]", "a note"]


@pytest.mark.parametrize(
    ("verb", "flag", "says"),
    [
        ("run", "--dryrun", "--dryrun: no such flag; nearest is --dry-run; see farm run --help"),
        ("status", "--wach", "--wach: no such flag; nearest is --watch; see farm status --help"),
        ("status", "--dryrun", "--dryrun: no such flag; see farm status --help"),
    ],
)
def test_a_wrong_flag_is_named_with_the_right_one(
    capsys: pytest.CaptureFixture[str], verb: str, flag: str, says: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([verb, "problem=4", flag])
    assert capsys.readouterr().err.splitlines()[-1] == f"farm: error: {says}"


EVERY_VERB = ("run", "plan", "submit", "status", "why", "export", "report", "prune")
WORDS = {"submit": ("site=greene", "--dry-run"), "why": ("both",), "prune": ("--yes",), "run": ("executor=inline",)}


def fails(parameters: Mapping[str, Scalar]) -> Any:
    raise ValueError("a mistake")


@pytest.mark.parametrize(
    ("name", "function", "says", "verbs"),
    [
        ("check", fails, "ValueError: a mistake", EVERY_VERB[:-1]),
        ("resolve", fails, "ValueError: a mistake", EVERY_VERB[:-1]),
        ("resolve", lambda parameters: None, "TypeError: 'NoneType' object is not iterable", EVERY_VERB[:-1]),
        ("revision", fails, "ValueError: a mistake", EVERY_VERB),
        ("revision", lambda parameters: "1", "TypeError: 'str' object cannot be", EVERY_VERB),
        ("steps", fails, "ValueError: a mistake", EVERY_VERB[:4]),
        ("steps", lambda parameters: math.inf, "OverflowError: cannot convert", EVERY_VERB[:4]),
        ("work", fails, "ValueError: a mistake", EVERY_VERB[:3]),
    ],
)
def test_a_mistake_in_a_trial_modules_function_is_told_by_every_verb_that_asks_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    function: Any,
    says: str,
    verbs: tuple[str, ...],
) -> None:
    study = "study: own\nproblem: own\nmodule: two_tables\ndata: none\ndevice: cpu\nsweep: {rows: [both, steps]}\n"
    (tmp_path / "own.yaml").write_text(study)
    done = Spec("two_tables", {"rows": "both"}, 0, 1, "none", "none", 1, False, None)
    run_attempt(Request(str(tmp_path / "own"), done.as_dict(), "cpu", None, ""), StopFlag(), lambda row: None, str)
    monkeypatch.setattr(two_tables, name, function, raising=False)
    for verb in verbs:
        code = main([verb, f"study={tmp_path / 'own.yaml'}", f"results={tmp_path}", *WORDS.get(verb, ())])
        told = capsys.readouterr().err
        assert (verb, code, len(told.splitlines())) == (verb, 2, 1), told
        assert told.startswith(f"farm: two_tables.{name}: {says}")
