"""The batch script is a pure function: held against golden files, and safe whatever names hold.

`FARM_WRITE_GOLDEN=1 pytest tests/farm/test_slurm_script.py` writes the golden files anew.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import COUNTING, ROOT, Finished, run_farm
from hypothesis import given, settings
from hypothesis import strategies as st

from farm import config as configuration
from farm.cli import main
from farm.config import load
from farm.errors import PreflightError, UsageError
from farm.ledger.scan import attempt_records
from farm.site import NodeType, Slurm, check_time, share
from farm.slurm import requeue
from farm.slurm.requeue import progress, trials_left, verdict
from farm.slurm.script import BatchJob, render
from farm.slurm.submit import allocation_plan, batch_job, submit
from farm.study import make_plan

GOLDEN = Path(__file__).with_name("golden")
PLAIN = BatchJob(
    name="farm-problem4",
    arguments=("problem=4", "profile=smoke", "results=/shared/results"),
    ledger="/shared/results/problem4",
    code="/home/me/farm",
    python="/home/me/farm/.venv/bin/python",
    nodes=2,
    gpus=4,
    cpus=16,
    memory_gib=120,
    time="08:00:00",
    gres="gpu:4",
    commit="0123456789ab",
)
IMAGE = dataclasses.replace(
    PLAIN,
    account="pr_123_general",
    constraint="h200|l40s",
    gres="gpu:4",
    extra=("--comment=preemption=yes;requeue=true",),
    modules=("module purge", "module load cuda"),
    image="/scratch/me/farm.sif",
    code="/opt/farm",
    python="/opt/venv/bin/python",
    binds=("/shared/results", "/data/cifar10"),
)
HOSTILE = dataclasses.replace(
    IMAGE,
    name='it\'s "quoted"; rm -rf $HOME `id` $(id) #1',
    arguments=("problem=4", "data_root=/data/it's here", 'title=$(touch /tmp/x) `id` "&& exit"', "é=ü"),
    ledger="/shared/100% of 'my' \"results\" $HOME/problem4",
    image="/scratch/my image's.sif",
    binds=("/shared/100% of 'my' \"results\" $HOME", "/data/it's here"),
)
JOBS = {"plain": PLAIN, "image": IMAGE, "hostile": HOSTILE}


@pytest.mark.parametrize("name", JOBS)
def test_the_script_is_the_golden_one(name: str) -> None:
    script = render(JOBS[name])
    golden = GOLDEN / f"batch-{name}.sh"
    if os.environ.get("FARM_WRITE_GOLDEN"):
        golden.write_text(script)
    assert script == golden.read_text()


@pytest.mark.parametrize("name", JOBS)
def test_bash_can_read_the_script(name: str) -> None:
    assert subprocess.run(["bash", "-n"], input=render(JOBS[name]), text=True, capture_output=True).stderr == ""


@pytest.mark.parametrize("given", [{}, {"TRITON_CACHE_DIR": "/my own/cache"}])
def test_caches_in_the_image_are_on_the_nodes_disk_or_where_the_user_says(
    tmp_path: Path, given: dict[str, str]
) -> None:
    """HOME is not in the image: what Triton compiles into it would fail."""
    (tmp_path / "apptainer").write_text("#!/bin/sh\nexec env\n")
    (tmp_path / "apptainer").chmod(0o755)
    script = render(dataclasses.replace(IMAGE, temporary="/tmp/it's here"))
    function = script[script.index("export FARM_IMAGE=") : script.index("node() {")]
    shown = subprocess.run(
        ["bash", "-uc", f"code=/opt/farm\n{function}\ninside true"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"} | given,
        capture_output=True,
        text=True,
        check=True,
    )
    passed = dict(line.split("=", 1) for line in shown.stdout.splitlines())
    for name in ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "MPLCONFIGDIR"):
        expected = given.get(name, f"/tmp/it's here/r7/{name}")
        assert [passed[f"{way}_{name}"] for way in ("APPTAINERENV", "SINGULARITYENV")] == [expected] * 2


def words_of(script: str, variable: str) -> list[str]:
    """What bash makes of one assignment of the script."""
    line = next(x for x in script.splitlines() if x.startswith(f"{variable}="))
    shown = subprocess.run(
        ["bash", "-c", f'{line}\nprintf "%s\\0" "${{{variable}[@]}}"'], capture_output=True, text=True, check=True
    )
    return shown.stdout.split("\0")[:-1]


@settings(max_examples=25)
@given(st.lists(st.text(st.characters(blacklist_categories=("Cc", "Cs")), min_size=1, max_size=30), max_size=4))
def test_every_argument_arrives_as_it_was_typed(arguments: list[str]) -> None:
    script = render(dataclasses.replace(PLAIN, arguments=tuple(arguments)))
    assert words_of(script, "run") == ["farm/run.py", *arguments]


@pytest.mark.parametrize(
    "change",
    [
        {"name": "x\n#SBATCH --account=other"},
        {"arguments": ("a=1\nrm -rf ~",)},
        {"ledger": "/results/with\\backslash"},
        {"binds": ("/a,/etc",)},
        {"extra": ("rm -rf ~",)},
        {"modules": ("module load x\ncurl evil",)},
    ],
)
def test_what_cannot_be_quoted_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        render(dataclasses.replace(IMAGE, **change))  # type: ignore[arg-type]


def test_no_token_is_in_the_script(farm: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a-secret-of-mine")
    done = farm("problem=4", "site=greene", "--dry-run", verb="submit", variables={"USER": "me"})
    assert (done.code, "a-secret" in done.out) == (0, False)


def test_greene_asks_in_greenes_words(farm: Callable[..., Finished]) -> None:
    words = ("problem=4", "site=greene", "nodes=2", "gpus_per_node=4", "time=08:00:00")
    done = run_farm(ROOT, *words, "results=/scratch/me/r", "--dry-run", verb="submit", variables={"USER": "me"})
    assert done.code == 0, done.err
    expected = ("--gres=gpu:rtx8000:4", "--nodes=2", "--time=08:00:00", "--signal=B:USR1@300", "--mem=320G")
    assert all(f"#SBATCH {option}\n" in done.out for option in expected)
    assert "exec singularity exec" in done.out
    assert "--bind /scratch/me " in done.out


def test_torch_asks_by_constraint_and_account(farm: Callable[..., Finished]) -> None:
    words = ("problem=4", "site=torch", "slurm.account=torch_pr_1", "gpus_per_node=2", "slurm.gpu_type='h200|l40s'")
    done = farm(*words, "timed=false", "--dry-run", verb="submit", variables={"USER": "me"})
    assert done.code == 0, done.err
    expected = ("--account=torch_pr_1", "--constraint='h200|l40s'", "--gres=gpu:2", "--cpus-per-task=24")
    assert all(f"#SBATCH {option}\n" in done.out for option in expected)
    assert "--partition" not in done.out


@pytest.mark.parametrize("hardware", [(), ("hardware=NVIDIA H200",)])
def test_a_timed_study_is_not_submitted_to_several_kinds_of_gpus(
    farm: Callable[..., Finished], hardware: tuple[str, ...]
) -> None:
    words = ("problem=4", "site=torch", "slurm.account=a", "slurm.gpu_type='h200|l40s'", *hardware)
    done = farm(*words, "--dry-run", verb="submit", variables={"USER": "me"})
    assert (done.code, done.out) == (2, "")
    assert "name one kind, e.g. slurm.gpu_type=h200" in done.err


def test_paths_of_a_study_of_ones_own_arrive_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(COUNTING.parent)
    words = ["study=counting.yaml", "trial.epochs=2", "results=here", "slurm.image=/i.sif"]
    job = job_of(words)
    here = COUNTING.parent / "here"
    assert job.arguments == ("trial.epochs=2", "slurm.image=/i.sif", f"study={COUNTING}", f"results={here}")
    assert (job.ledger, job.gpus, job.binds) == (f"{here / 'counting'}", 0, (str(COUNTING.parent),))


def test_a_job_in_an_image_reads_the_data_that_the_login_node_has(tmp_path: Path) -> None:
    words = ["problem=4", "site=greene", "results=/r", "slurm.binds=[]"]
    assert "data_root" not in " ".join(job_of([*words, "slurm.image=null"]).arguments)
    words.append("slurm.image=/i.sif")
    assert job_of(words).arguments[-2] == f"data_root={ROOT / 'data'}"
    assert job_of(words).binds == ("/r", str(ROOT / "data"))
    assert job_of([*words, f"data_root={tmp_path}"]).binds == ("/r", str(tmp_path))
    assert job_of([*words, "profile=smoke"]).binds == ("/r",)


def test_a_ray_to_join_is_refused_as_the_job_starts_its_own() -> None:
    words = ["problem=4", "site=greene", "results=/r", "slurm.image=/i.sif", "slurm.binds=[]"]
    with pytest.raises(UsageError, match="ray_address=auto: the job of farm submit starts a Ray of its own"):
        job_of([*words, "ray_address=auto"])
    assert "ray_address" not in " ".join(job_of([*words, "ray_address=null"]).arguments)  # the script adds its own


def test_a_files_ray_is_not_joined_by_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    study = tmp_path / "own.yaml"
    study.write_text("module: counting\nray_address: 10.0.0.1:6379\n")
    assert "ray_address" not in " ".join(job_of([f"study={study}", f"results={tmp_path}"]).arguments)


def job_of(words: list[str]) -> BatchJob:
    """What `farm submit` with these words would submit."""
    config = load(words)
    return batch_job(config, words, allocation_plan(config))


@pytest.mark.parametrize("key", ["results", "data_root", "slurm.code"])
def test_a_colon_in_a_path_that_the_image_must_see_is_refused(key: str) -> None:
    words = ["problem=4", f"{key}=/scratch/me/run:1"]
    assert job_of(words)
    with pytest.raises(UsageError, match="a colon separates"):
        job_of([*words, "slurm.image=/i.sif"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["slurm.temporary=relative/x"], "slurm.temporary: relative/x: an absolute path"),
        (["slurm.binds=[relative]"], "slurm.binds: relative: an absolute path"),
        (["slurm.code=relative"], "slurm.code: relative: an absolute path"),
        (["site=torch"], "slurm.account=ACCOUNT"),
        (["slurm.options=['--output=/x.log']"], "--output is the farm's own"),
        (["slurm.options=['-o/x.log']"], "--output is the farm's own"),
        (["slurm.options=['--wrap=true']"], "--wrap is the farm's own"),
        (["slurm.options=['--export=ALL']"], "slurm.modules=['export NAME=value']"),
        (["slurm.head_options=['--exp=ALL']"], "slurm.head_options: --exp=ALL: --export is the farm's own"),
        (["drain_seconds=91"], "drain_seconds=91: more than half of slurm.signal_seconds=180"),
    ],
)
def test_what_a_job_could_not_live_with_is_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USER", "me")
    code = main(["submit", "problem=4", "profile=smoke", "results=/r", "slurm.image=/i.sif", *words, "--dry-run"])
    assert (code, said in capsys.readouterr().err) == (2, True)


def test_other_options_of_sbatch_are_taken() -> None:
    options = ("--exclude=gr003", "--comment=a;b", "--exclusive", "--open-mode=truncate", "-H")
    assert job_of(["problem=4", f"slurm.options={list(options)}", "results=/r"]).extra == options


def test_a_bind_of_ones_own_may_have_a_destination() -> None:
    words = ["problem=4", "profile=smoke", "slurm.image=/i.sif", "results=/r", "slurm.binds=['/a:/b']"]
    assert job_of(words).binds == ("/r", "/a:/b")


def test_a_sites_paths_may_name_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "me")
    words = ["slurm.temporary=/tmp/$USER", "slurm.image=/i/$USER.sif", "slurm.python=/v/$USER/bin/python"]
    job = job_of(["problem=4", *words])
    assert (job.temporary, job.image, job.python) == ("/tmp/me", "/i/me.sif", "/v/me/bin/python")


def test_data_that_is_not_there_is_told_before_anything_queues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sbatch").touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "i.sif").touch()
    monkeypatch.setattr(configuration, "ROOT", tmp_path)
    config = load(["problem=4", f"slurm.image={tmp_path / 'i.sif'}", f"results={tmp_path / 'results'}"])
    with pytest.raises(PreflightError, match="farm data fetch"):
        submit(config, "")


def test_trials_that_the_allocation_cannot_hold_are_told_though_the_node_could(farm: Callable[..., Finished]) -> None:
    words = ("problem=2", "site=greene", "hardware=H", "--dry-run")
    one = farm(*words, "gpus_per_node=1", verb="submit", variables={"USER": "me"})
    assert (one.code, one.err.count("the largest node has 10 CPUs and 1 GPU; gpus_per_node=")) == (1, 8), one.err
    all_of_it = farm(*words, verb="submit", variables={"USER": "me"})
    assert (all_of_it.code, all_of_it.err, "--gres=gpu:rtx8000:4\n" in all_of_it.out) == (0, "", True)


def test_a_misspelt_site_key_is_told(tmp_path: Path) -> None:
    site = tmp_path / "mine.yaml"
    site.write_text("slurm: {acount: me}\n")
    done = run_farm(tmp_path, "problem=4", f"site={site}", "--dry-run", verb="submit")
    assert (done.code, "slurm.account" in done.err) == (2, True)


def test_the_results_of_a_site_stand_behind_those_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "mine.yaml"
    site.write_text("results: /scratch/$USER/results\n")
    words = ["problem=4", f"site={site}"]
    monkeypatch.setenv("USER", "me")
    monkeypatch.delenv("FARM_RESULTS", raising=False)
    assert load(words).results == Path("/scratch/me/results")
    monkeypatch.setenv("FARM_RESULTS", "/mine")
    assert load(words).results == Path("/mine")
    assert load([*words, "results=/other"]).results == Path("/other")


def test_a_node_is_shared_out_by_gpus() -> None:
    slurm = load(["problem=4", "site=greene", "results=/r", "slurm.image=/i", "slurm.binds=[]"]).settings.slurm
    assert (share(slurm, 1).cpus, share(slurm, 4).memory_gib) == (10, 320)
    with pytest.raises(UsageError, match="4 GPUs"):
        share(slurm, 5)


def test_a_job_without_gpus_has_the_share_of_one_and_not_of_none(farm: Callable[..., Finished]) -> None:
    words = ("problem=3", "site=torch", "slurm.account=a", "device=cpu", "resources.gpu=0")
    done = farm(*words, "--dry-run", verb="submit", variables={"USER": "me"})
    assert done.code == 0, done.err
    assert all(f"#SBATCH {option}\n" in done.out for option in ("--cpus-per-task=12", "--mem=175G"))
    assert "--gres" not in done.out
    assert share(Slurm(node_types={"thin": NodeType(8, 0, 16), "gpu": NodeType(40, 4, 320)}), 0) == NodeType(8, 0, 16)


@pytest.mark.parametrize("time", ["08:00:00", "8:00:00", "240", "30:00", "1-12", "2-00:30:00"])
def test_slurms_walltimes_are_taken(time: str) -> None:
    check_time(time, 180)
    assert load(["problem=4", f"time={time}"]).settings.time == time


@pytest.mark.parametrize("time", ["soon", "1800", "", "3", "00:03:00", "8h"])
def test_other_walltimes_are_refused(time: str) -> None:
    with pytest.raises(UsageError):
        check_time(time, 180)


@pytest.mark.parametrize(
    ("code", "restarts", "before", "after", "seen", "expected"),
    [
        (0, 0, 0, 9, {}, ("end", 0)),
        (1, 0, 0, 9, {}, ("end", 1)),
        (1, 0, 0, 9, {"head_lost": True}, ("requeue", 75)),
        (3, 0, 0, 0, {}, ("end", 3)),
        (3, 0, 0, 0, {"head_lost": True}, ("requeue", 75)),
        (3, 1, 0, 0, {"head_lost": True}, ("end", 1)),
        (2, 0, 0, 0, {"head_lost": True}, ("end", 2)),
        (75, 0, 0, 0, {}, ("requeue", 75)),
        (75, 1, 4, 5, {}, ("requeue", 75)),
        (75, 1, 5, 5, {}, ("end", 1)),
        (137, 2, 5, 5, {"head_lost": True}, ("end", 1)),
        (137, 0, 5, 5, {}, ("requeue", 75)),
        (1, 0, 0, 500, {"left": True}, ("requeue", 75)),
        (1, 3, 400, 500, {"left": True}, ("requeue", 75)),
        (1, 0, 500, 500, {"left": True}, ("end", 1)),
        (1, 1, 500, 500, {"left": True}, ("end", 1)),
        (3, 0, 0, 500, {"left": True}, ("end", 3)),
    ],
)
def test_a_job_goes_round_only_while_it_gets_on(
    code: int, restarts: int, before: int, after: int, seen: dict[str, bool], expected: tuple[str, int]
) -> None:
    assert verdict(code, restarts, before, after, **seen) == expected


@pytest.mark.parametrize(("end", "left"), [("completed", False), ("failed", False), ("nccl", True)])
def test_left_are_trials_that_ran_out_of_retries_and_not_those_that_failed(
    farm: Callable[..., Finished], tmp_path: Path, end: str, left: bool
) -> None:
    ledger = tmp_path / "results" / "counting"
    assert not trials_left(ledger)
    done = farm(f"study={COUNTING}", "executor=inline", f"trial.end={end}", "retries=0", "commit_seconds=0")
    assert (done.code, trials_left(ledger)) == (int(end != "completed"), left), done.err
    assert progress(ledger) > 0


def test_a_job_that_is_requeued_meets_a_bug_once(tmp_path: Path) -> None:
    """What had failed when it was submitted runs again, in whichever allocation, and what fails then does not."""
    words = [f"study={COUNTING}", f"results={tmp_path}", "executor=inline", "trial.end=failed"]
    assert main(["run", *words, "sweep.factor=[1]"]) == 1
    job = job_of([*words, "retry=failed", "device=cpu", "resources.gpu=0"])
    assert [w.partition("=")[2] == "failed" for w in job.arguments if w.startswith("retry=")] == [False]
    for _ in range(2):  # the second round is a requeue's
        assert main(["run", *job.arguments]) == 1
    attempts = [r["how"] for r in attempt_records(tmp_path / "counting")]
    assert attempts == ["failed"] * 3  # one of factor=1 before, and then one of each


def test_a_run_of_a_chosen_trial_has_none_left_when_that_one_has_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"study={COUNTING}", f"results={tmp_path}", "executor=inline", "trial.end=failed"]
    first, second = (t.id for t in make_plan(load(words)).trials)
    assert main(["run", *words, f"trial={first}"]) == 1
    for chosen, said in (([first[:8]], "end 1"), ([second], "requeue 75"), ([], "requeue 75")):
        capsys.readouterr()
        requeue.main([str(tmp_path / "counting"), "--code=1", "--before=-1", *(f"--trial={i}" for i in chosen)])
        assert capsys.readouterr().out == f"{said}\n"
    job = job_of([*words, f"trial={first},{second[:8]}", "device=cpu", "resources.gpu=0"])
    assert job.chosen == (first, second[:8])
    assert f'farm.slurm.requeue "$ledger" --trial {first} --trial {second[:8]} "$@"' in render(job)


def test_progress_grows_with_the_ledger(farm: Callable[..., Finished], tmp_path: Path) -> None:
    ledger = tmp_path / "results" / "counting"
    assert progress(ledger) == 0
    farm(f"study={COUNTING}", "executor=inline", "sweep.factor=[1]")
    first = progress(ledger)
    farm(f"study={COUNTING}", "executor=inline")
    assert 0 < first < progress(ledger)
