"""The command line: what it accepts, and what it says of what it does not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from commands import COUNTING
from hypothesis import given
from hypothesis import strategies as st

from farm import config as configuration
from farm.cli import main
from farm.errors import FarmError, UsageError

BAD = [
    (["probelm=4"], "nearest is problem"),
    (["problem=9"], "the problems are"),
    (["problem=4", "study=problem3"], "problem=4 and study=problem3: each names a study; say which is meant"),
    (["problem"], "not key=value"),
    (["problem=4", "trial.epochs=ten"], "trial.epochs"),
    (["problem=4", "trial.epochs=-1"], "from 1 to"),
    (["problem=4", "trial.epcohs=3"], "nearest is trial.epochs"),
    (["problem=4", "M=3"], "nearest is trial.M"),
    (["problem=4", "lr=0.05"], "nearest is trial.learning_rate"),
    (["problem=4", "trial.lr=0.05"], "trial.lr: no such key; nearest is trial.learning_rate (in the command line)"),
    (["problem=4", "sweep.lr=[0.05]"], "sweep.lr: no such parameter; nearest is learning_rate"),
    (["problem=4", "trial.x=1"], "trial.x: no such key (in the command line)"),
    (["problem=4", "trial.schedule=cosine"], "trial.schedule=cosine: one of hoffer, budget, onecycle is expected"),
    (["problem=4", "sweep.M=[]"], "at least one value"),
    (["problem=4", "sweep.M=[0]"], "sweep.M=0"),
    (["problem=4", "sweep.M=[2"], "not valid YAML"),
    (["problem=4", "sweep.M=3"], "a list"),
    (["problem=4", "sweep.M=[2,2]"], "twice"),
    (["problem=4", "sweep.m=[2]"], "nearest is M"),
    (["problem=4", "seeds=[]"], "seeds"),
    (["problem=4", "seeds=3"], "seeds: a list is expected, as seeds=[3] (in the command line)"),
    (["problem=4", "seeds=0,1,2"], "seeds: a list is expected, as seeds=[0,1,2]"),
    (["problem=4", "seeds=null"], "seeds: a list is expected, as seeds=[…]"),
    (["problem=4", "extra=3"], "extra: a list is expected, as extra=[3]"),
    (["problem=4", "zip=3"], "zip: a list is expected, as zip=[3]"),
    (["problem=4", "slurm.options=x"], "slurm.options: a list is expected, as slurm.options=[x]"),
    (["problem=4", "resources=3"], "resources: a mapping is expected (in the command line)"),
    (["problem=4", "seeds=[-1]"], "seeds"),
    (["problem=4", "seeds=[1,1]"], "seeds=[1, 1]: a value stands there twice"),
    (["problem=4", "sweep={}"], "the axes M, schedule stay"),
    (["problem=4", "sweep.M={a: 1}"], "sweep.M: a list is expected"),
    (["problem=4", "sweep=[]"], "sweep: a mapping is expected"),
    (["problem=4", "profile=smok"], "profiles smoke"),
    (["problem=4", "extra=[3]"], "extra.0"),
    (["problem=4", "data=cifar"], "cifar10"),
    (["problem=4", "trial.learning_rate=nan"], "trial.learning_rate=nan"),
    (["problem=4", "module=nope"], "module"),
    (["study=nowhere.yaml"], "no such file"),
    (["site=mars", "problem=4"], "site"),
]


@pytest.mark.parametrize(("arguments", "says"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_a_wrong_word_is_named_with_the_right_one(arguments: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=re.escape(says)):
        configuration.load(arguments)


@pytest.mark.parametrize("word", ["results=/tmp/\udcff", "study=\udcff.yaml", "trial.end=\udcff", "data_root=\udcff"])
def test_bytes_that_are_not_utf8_are_called_so(word: str) -> None:
    with pytest.raises(UsageError, match=r"=.*\\xff.*: has bytes that are not UTF-8"):
        configuration.load([f"study={COUNTING}", word])


def test_so_are_those_of_a_directory_of_results_that_no_word_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_RESULTS", "/tmp/\udcff")
    with pytest.raises(UsageError, match=r"results=/tmp/\\xff: has bytes that are not UTF-8"):
        configuration.load([f"study={COUNTING}"])


def test_a_wrong_word_ends_with_exit_code_2(farm) -> None:
    done = farm("problem=4", "trial.epochs=ten")
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err


def test_overrides_win_over_profile_over_study() -> None:
    plain = configuration.load(["problem=4"])
    smoke = configuration.load(["problem=4", "profile=smoke"])
    mine = configuration.load(["problem=4", "profile=smoke", "trial.epochs=7"])
    assert [c.parameters["epochs"] for c in (plain, smoke, mine)] == [100, smoke.parameters["epochs"], 7]
    assert smoke.parameters["epochs"] < 7


def test_a_selector_and_an_override_of_one_name_do_not_disturb_each_other() -> None:
    config = configuration.load(["problem=4", "data=synthetic", "data_root=/x", "trial=abc", "trial.epochs=2"])
    assert (config.settings.data, config.settings.data_root) == ("synthetic", "/x")
    assert (config.chosen, config.parameters["epochs"]) == (("abc",), 2)


def test_the_order_of_overrides_does_not_matter() -> None:
    words = ["problem=4", "profile=smoke", "trial.epochs=7", "sweep.M=[4]"]
    assert configuration.load(words).yaml() == configuration.load(words[::-1]).yaml()


def test_results_come_from_the_command_line_then_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_RESULTS", "/from/environment")
    assert configuration.load(["problem=4"]).ledger == Path("/from/environment/problem4")
    assert configuration.load(["problem=4", "results=/mine"]).ledger == Path("/mine/problem4")


def test_a_study_file_outside_the_farm_finds_the_module_beside_it() -> None:
    config = configuration.load([f"study={COUNTING}"])
    assert config.study == "counting"
    assert config.sweep == {"factor": [1, 2]}


def test_a_broken_study_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("sweep: [1\nmodule: x")
    with pytest.raises(UsageError, match=r"broken\.yaml"):
        configuration.load([f"study={path}"])


def test_a_wrong_key_in_a_study_file_names_the_file_and_the_key(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("module: trials.problem4\ntrail: {epochs: 3}\n")
    with pytest.raises(UsageError, match=r"nearest is trial.*study mine"):
        configuration.load([f"study={path}"])


def test_a_value_that_is_no_list_in_a_study_file_is_told_with_the_list(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("module: trials.problem4\nseeds: 3\n")
    with pytest.raises(UsageError, match=r"seeds: a list is expected, as seeds=\[3\] \(in study mine\)"):
        configuration.load([f"study={path}"])


@pytest.mark.parametrize("name", ["mine.yaml", "problem4.yaml"])
def test_a_study_file_of_ones_own_has_a_name_and_results_of_its_own(tmp_path: Path, name: str) -> None:
    original = configuration.CONF / "study" / "problem4.yaml"
    path = tmp_path / name
    path.write_text(original.read_text())
    with pytest.raises(UsageError, match=r"study: problem4 is one of the farm's own.*choose another name"):
        configuration.load([f"study={path}"])
    path.write_text(original.read_text().replace("study: problem4", ""))
    if name == "mine.yaml":
        assert configuration.load([f"study={path}"]).study == "mine"
    else:
        with pytest.raises(UsageError, match="choose another name"):
            configuration.load([f"study={path}"])
    link = tmp_path / "link"
    link.symlink_to(configuration.CONF)
    for own in (original, link / "study" / "problem4.yaml"):
        assert configuration.load([f"study={own}"]).study == "problem4"


ALONE = """\
module: counting
timed: true
resources: {gpu: gpus, exclusive: node}
profiles: {beside: {resources: {exclusive: ''}}}
"""


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["resources.exclusive=''"], "its node to itself, as its file says; use timed=false to run others beside it"),
        (["resources.exclusive=''", "device=cpu", "resources.gpu=0"], "use timed=false"),
        (["profile=smoke", "resources.exclusive=''"], "use timed=false"),
        (["resources.gpu=1", "sweep.gpus=[2]"], "as many as gpus says; sweep.gpus=[…] chooses"),
        (["resources.gpu=4", "sweep.gpus=[1]", "hardware=NVIDIA H200"], "device=cpu resources.gpu=0 runs without"),
        (["resources.gpu=4", "sweep.gpus=[1]", "device=cpu"], "chooses, and resources.gpu=0 runs without"),
        (["resources.gpu=0", "sweep.gpus=[1]", "device=cuda"], "chooses, and device=cpu runs without"),
        (["resources.gpu=0.5"], "as many as gpus says"),
        (["resources.gpu=repeats"], "as many as gpus says"),
        (["resources.gpu=[1]"], "as many as gpus says"),
        (["resources.gpu=2", "sweep.gpus=[2]", "extra=[{mode: ddp}]"], "a timed trial of this study holds the GPUs"),
    ],
)
def test_a_timed_trial_gives_up_nothing_that_its_studys_file_reserves(words: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=re.escape(says)):
        configuration.load(["problem=2", *words])


@pytest.mark.parametrize(
    "words",
    [
        ["resources.gpu=1"],
        ["resources.gpu=2"],
        ["resources.gpu=0.5", "sweep.gpus=[2]"],
        ["resources.gpu=2", "sweep.gpus=[1]", "extra=[{gpus: 3}]"],
        ["resources.gpu=2", "zip=[{gpus: [3], repeats: [1]}]"],
        ["resources.gpu=0", "device=cuda"],
        ["resources.gpu=0", "device=cuda", "sweep.gpus=[1]"],
    ],
)
def test_no_trial_runs_on_more_gpus_than_it_reserves(words: list[str]) -> None:
    said = f"{words[0]}: a trial of this study holds the GPUs that it runs on, as many as gpus says"
    with pytest.raises(UsageError, match=re.escape(said)):
        configuration.load(["problem=2", "timed=false", *words])


@pytest.mark.parametrize(
    "words",
    [
        ["problem=2", "timed=false", "resources.exclusive=''", "resources.gpu=1", "sweep.gpus=[1]"],
        ["problem=2", "timed=false", "resources.gpu=0.5", "sweep.gpus=[1]"],
        ["problem=2", "timed=false", "resources.gpu=4", "extra=[{gpus: 3}]"],
        ["problem=2", "timed=false", "resources.gpu=1", "device=cpu"],
        ["problem=2", "timed=false", "resources.gpu=repeats"],
        ["problem=2", "resources.gpu=2", "sweep.gpus=[2]", "extra=[{mode: ddp, gpus: 2}]"],
        ["problem=2", "resources.gpu=2", "zip=[{gpus: [2], repeats: [1]}]"],
        ["problem=2", "device=cpu", "resources.gpu=0"],
        ["problem=2", "resources.cpu=4", "resources.exclusive=node", "resources.gpu=gpus"],
        ["problem=4", "resources.exclusive=''", "resources.gpu=2"],
        [f"study={COUNTING}", "timed=true", "resources.exclusive=''", "resources.gpu=2"],
    ],
)
def test_a_study_gives_up_what_it_is_not_timed_with(words: list[str]) -> None:
    configuration.load(words)


def test_a_study_of_ones_own_is_held_to_its_file_and_the_profile_of_that(tmp_path: Path) -> None:
    path = tmp_path / "alone.yaml"
    path.write_text(ALONE)
    assert configuration.load([f"study={path}", "profile=beside"]).settings.resources.exclusive == ""
    with pytest.raises(UsageError, match="use timed=false"):
        configuration.load([f"study={path}", "resources.exclusive=''"])
    with pytest.raises(UsageError, match=r"trial\.gpus=… chooses"):
        configuration.load([f"study={path}", "resources.gpu=1"])


def test_help_of_a_study_has_its_own_values(farm) -> None:
    found = farm("problem=2", "seeds=[4]", "--help").out
    for value in ("timed=True", "seeds=[4]", "resources.exclusive=node"):
        assert f"\n  {value} " in found
    assert "'scaling': ['weak', 'strong']" in found


def test_help_shows_units_ranges_and_defaults(farm) -> None:
    done = farm("problem=4", "--help")
    assert done.code == 0
    assert "commit_seconds=30.0" in done.out
    assert "[s, a number of at least 0]" in done.out
    assert "trial.cutout_length=16" in done.out
    assert "75 stopped by SIGTERM, SIGUSR1 or SIGHUP" in done.out
    assert done.out.count("python farm/run.py") >= 4


def test_cfg_prints_the_resolved_configuration_and_runs_nothing(farm, tmp_path: Path) -> None:
    done = farm("problem=4", "profile=smoke", "trial.depth=14", "--cfg")
    assert done.code == 0
    assert "depth: 14" in done.out
    assert not (tmp_path / "results").exists()


words = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=12)
keys = st.sampled_from(["trial.M", "sweep.M", "seeds", "zip", "extra", "resources.gpu", "threads", "data"]) | words


@given(st.lists(st.tuples(keys, words).map("=".join), max_size=4))
def test_any_command_line_loads_or_is_refused_in_words(overrides: list[str]) -> None:
    try:
        configuration.load(["problem=4", *overrides])
    except FarmError as error:
        assert str(error)


@pytest.mark.parametrize("text", ["", ",", "ab,,cd", " "])
def test_no_id_is_not_the_whole_grid(text: str) -> None:
    """As of an unset variable of the shell."""
    with pytest.raises(UsageError, match="ids of trials are expected"):
        configuration.load(["problem=4", f"trial={text}"])


def test_what_was_run_before_a_check_can_be_looked_at() -> None:
    words = ["problem=2", "resources.exclusive=''", "resources.gpu=1"]
    assert configuration.load(words, looking=True).looking
    with pytest.raises(UsageError):
        configuration.load(words)


def test_a_key_that_stands_there_twice_with_one_value_is_no_mistake() -> None:
    words = ["problem=4", "trial.epochs=3", "problem=4", "trial.epochs=3", "study=problem4", "seeds=[0]", "seeds=[0 ]"]
    config = configuration.load([*words, "resources={cpu: 2}", "resources.gpu=1", "resources={gpu: 1}"])
    assert (config.study, config.parameters["epochs"]) == ("problem4", 3)
    assert (config.settings.resources.cpu, config.settings.resources.gpu) == (2, 1)


@pytest.mark.parametrize(
    "words",
    [
        ["resources.gpu=1", "resources={gpu: 2}"],
        ["resources={cpu: 1, gpu: 2}", "resources={gpu: 1}"],
        ["sweep.M=[1]", "sweep={M: [2]}"],
        ["timed=true", "timed=1"],
    ],
)
def test_a_key_inside_a_mapping_has_one_value_too(words: list[str]) -> None:
    with pytest.raises(UsageError, match=re.escape(f"{words[0]} and {words[1]}: ") + ".* stands there twice"):
        configuration.load(["problem=4", *words])


@pytest.mark.parametrize(
    "words",
    [
        ["resources=null", "resources.gpu=1"],
        ["resources=5", "resources={gpu: 1}"],
        ["sweep=null", "sweep.M=[1]"],
        ["slurm=null", "slurm.gpu_models={v100: V}"],
        ["seeds=[0]", "seeds.0=1"],
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_null_or_a_value_in_place_of_a_mapping_is_another_value(words: list[str], order: int) -> None:
    said = f"{' and '.join(words)}: {words[0].partition('=')[0]} stands there twice"
    with pytest.raises(UsageError, match=re.escape(said)):
        configuration.load(["problem=4", *words[::order]])


def test_a_trial_that_is_named_and_an_empty_mapping_are_no_values_of_what_is_inside() -> None:
    config = configuration.load(["problem=4", "trial.epochs=3", "trial=abc", "resources={}", "resources.gpu=1"])
    assert (config.chosen, config.parameters["epochs"], config.settings.resources.gpu) == (("abc",), 3, 1)


@pytest.mark.parametrize(
    "words", [["seeds=[0]", "seeds=[1]"], ["site=local", "site=greene"], ["results=a", "results=b"]]
)
@pytest.mark.parametrize("verb", ["plan", "submit", "status", "report", "doctor", "data"])
def test_a_key_with_two_values_is_refused_by_every_verb(
    verb: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    study = [] if verb == "data" else ["problem=4"]
    assert main([verb, *study, *words]) == 2
    assert f"{' and '.join(words)}: {words[0].partition('=')[0]} stands there twice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("/scratch/$FARM_NOBODY/results", "/scratch/$FARM_NOBODY/results: $FARM_NOBODY is not set here"),
        ("/$HOME/${FARM_NOBODY}/$FARM_NOWHERE", ": ${FARM_NOBODY} and $FARM_NOWHERE are not set here"),
        ("/scratch/$/results", ": a $ in it names no variable"),
    ],
)
def test_a_variable_of_a_site_that_is_not_set_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, says: str
) -> None:
    monkeypatch.delenv("FARM_RESULTS", raising=False)
    site = tmp_path / "mine.yaml"
    site.write_text(f"results: {place}\n")
    with pytest.raises(UsageError, match=f"{re.escape(says)}$"):
        configuration.load(["problem=4", f"site={site}"])
