"""The `farm` command: verbs, flags, exit codes. `farm run` is `python farm/run.py`."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from farm import config as configuration
from farm import elsewhere
from farm import help as helping
from farm.checks import counted, nearest, short_path
from farm.command_line import SELECTORS, check_repeated, is_override
from farm.config import Config
from farm.errors import (
    COMPLETE,
    FAILED,
    INTERRUPTED,
    PLACE_ERRORS,
    STORAGE_ERRORS,
    FarmError,
    PreflightError,
    UsageError,
)
from farm.output import Output, open_closed, to_nowhere
from farm.plan import STATES, Plan, check_defaults, check_work
from farm.signals import Signals
from trials.spec import ModuleError

Verb = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code; the user's mistakes become one line on stderr, where anybody reads it."""
    open_closed()
    if isinstance(sys.stdout, io.TextIOWrapper):  # an error may name a file in no encoding, and is shown all the same
        sys.stdout.reconfigure(errors="backslashreplace")
    with contextlib.redirect_stderr(Output(sys.stderr)):
        code = _main(arguments)
        Output(sys.stdout).flush()  # a disk that is full still is so when the interpreter ends, with a code of its own
        return code


def _main(arguments: Sequence[str] | None) -> int:
    parser, verbs = _parser()
    word = next(iter(sys.argv[1:] if arguments is None else arguments), "-")
    if not word.startswith("-") and word not in verbs:
        parser.error(f"{word}: no such verb{nearest(word, verbs, prefix='; nearest is ')}; see farm --help")
    options, rest = parser.parse_known_args(arguments)
    if unknown := [word for word in rest if word.startswith("-")]:
        flags = [f"--{name.replace('_', '-')}" for name, value in vars(options).items() if isinstance(value, bool)]
        hint = nearest(unknown[0], flags, prefix="; nearest is ")
        parser.error(f"{unknown[0]}: no such flag{hint}; see farm {options.verb} --help")
    options.overrides += rest  # argparse takes only the key=value before a flag
    try:
        if options.help:
            print(helping.text(options.verb, options.overrides))
            return COMPLETE
        verb: Verb = options.function
        code = verb(options)
        sys.stdout.flush()  # here, where what becomes of it is handled
        return code
    except FarmError as error:
        print(f"farm: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleError as error:  # the study's own code, which every verb asks that looks at a grid
        print(f"farm: {error}", file=sys.stderr)
        return UsageError.exit_code
    except BrokenPipeError:  # `farm plan | head`
        to_nowhere(sys.stdout.fileno())
        return COMPLETE
    except OSError as error:
        if error.errno not in (*STORAGE_ERRORS, *PLACE_ERRORS):
            raise
        print(f"farm: {error}; what was committed stays, and the same command goes on from it", file=sys.stderr)
        return PreflightError.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser() -> tuple[argparse.ArgumentParser, list[str]]:
    """The command's parser, and its verbs."""
    parser = argparse.ArgumentParser(prog="farm", description=__doc__, epilog="farm VERB --help shows more")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def add(name: str, function: Verb, help: str) -> argparse.ArgumentParser:
        verb = verbs.add_parser(name, help=help, add_help=False)
        verb.add_argument("overrides", nargs="*", metavar="key=value")
        verb.add_argument("--help", "-h", action="store_true")
        verb.set_defaults(function=function)
        return verb

    run = add("run", _run, "run what the ledger lacks")
    run.add_argument("--dry-run", action="store_true", help="print the plan and run nothing")
    plan = add("plan", _plan, "list every trial with its state")
    for verb in (run, plan):
        verb.add_argument("--cfg", action="store_true", help="print the resolved configuration and run nothing")
        verb.add_argument("--json", action="store_true", help="the plan as JSON")
    status = add("status", _status, "what a study's trials do now; without a study, which studies have results")
    status.add_argument("--watch", action="store_true", help="go on showing it until the run has ended")
    status.add_argument("--json", action="store_true", help="as JSON")
    add("why", _why, "`farm why TRIAL problem=4`: which inputs made a trial new")
    submit = add("submit", _submit, "run a study in one Slurm allocation, requeued until it is complete")
    submit.add_argument("--dry-run", action="store_true", help="print the batch script and submit nothing")
    up = add("up", _up, "start a head whose workers are Slurm jobs that come and go with the trials")
    up.add_argument("--dry-run", action="store_true", help="print the jobs' scripts and submit nothing")
    add("down", _down, "end what `farm up` started: the head and all workers")
    add("export", _export, "rebuild the Parquet tables from the ledger")
    prune = add("prune", _prune, "remove what a ledger can do without, asking first")
    prune.add_argument("--yes", action="store_true", help="do not ask")
    report = add("report", _report, "write the report of a study, or of every study that has results")
    report.add_argument("--check", action="store_true", help="exit 1 where the report is older than its rows")
    add("reproduce", _reproduce, "the whole sheet: all four studies, the report over them, what is missing")
    add("data", _data, "`farm data fetch` downloads CIFAR-10; `farm data` says what is there")
    add("doctor", _doctor, "check this machine: versions, GPUs, Ray, data, results directory")
    add("image", _image, "a site's image: its digest, and how to get or build it")
    return parser, list(verbs.choices)


def _run(options: argparse.Namespace) -> int:
    config = configuration.load(options.overrides)
    if options.cfg:
        print(config.yaml(), end="")
        return COMPLETE
    _say_what_is_not_read(config, options.overrides)
    if options.dry_run or options.json:
        return _show_plan(config, options.json)
    with contextlib.redirect_stdout(Output(sys.stdout)):
        if config.settings.ray_address == "up":
            from farm.slurm import there

            if there.is_wanted(config):
                return there.run_there(config, options.overrides)
        signals = Signals()
        with signals.handled():
            return _run_here(config, options.overrides, signals)


def _say_what_is_not_read(config: Config, overrides: list[str]) -> None:
    """A profile, or a study of one's own, may draw its data; only a report's pictures are then of that directory."""
    data = config.settings.data
    if data != "cifar10" and config.settings.data_root and any(o.startswith("data_root=") for o in overrides):
        remedy = "; data=cifar10 trains on it" if data == "synthetic" else ""
        print(f"farm: data_root= is not read by these trials: data={data}{remedy}", file=sys.stderr)


def _run_here(config: Config, overrides: list[str], signals: Signals) -> int:
    from farm import study
    from farm.recall import place_words

    result = study.run(config, overrides, signals)
    _print_failures(result.plan)
    if result.comparison:
        print(result.comparison)
    if not result.tables:  # another driver has the ledger now, and makes these, or no trial can run here
        return result.exit_code
    for path in _main_results(config, result.plan):
        print(short_path(path))
    print(f"{short_path(config.ledger / 'export')}: {', '.join(p.name for p in result.tables.values())}")
    if n := len(study.finished_outside(config)):
        command = shlex.join(["farm", "report", *place_words(overrides)])
        print(f"outside this grid: {counted(n, 'finished trial')} of this study; {command} takes them in")
    return result.exit_code


def _plan(options: argparse.Namespace) -> int:
    config = configuration.load(options.overrides)
    if options.cfg:
        print(config.yaml(), end="")
        return COMPLETE
    _say_what_is_not_read(config, options.overrides)
    return _show_plan(config, options.json)


def _show_plan(config: Config, as_json: bool) -> int:
    from farm import budget, data_check, study
    from farm.slurm.submit import site_nodes
    from farm.slurm.there import is_wanted
    from farm.view import print_plan

    nodes = site_nodes(config)
    plan = study.make_plan(config, nodes or None)
    if as_json:
        print(json.dumps(_plan_json(plan), indent=1))
    else:
        print_plan(plan)
    if plan.remark:
        print(f"{plan.study}: {plan.remark}", file=sys.stderr)
    here = not nodes and config.settings.nodes == 1 and not is_wanted(config)  # else a path is another machine's
    if here and (missing := data_check.foreseen(config, plan)):
        print(f"farm: {missing}; a run here ends with exit code 3", file=sys.stderr)
    elsewhere.check_trials(config)
    check_defaults(plan)
    check_work(plan)
    budget.check(plan, config.settings.max_gpu_hours)
    return FAILED if plan.count("failed") or plan.count("unschedulable") else COMPLETE


def _plan_json(plan: Plan) -> dict[str, object]:
    trials = [
        {
            "id": t.id,
            "label": t.label,
            "state": t.state,
            "status": t.status,
            "epoch": t.epoch,
            "reason": t.reason,
            "cpus": t.bundle.cpu,
            "gpus": t.bundle.gpu,
            "gpu_hours": t.gpu_hours,
            "stale": t.stale,
            "spec": t.spec.as_dict(),
        }
        for t in plan.trials
    ]
    return {"study": plan.study, "counts": {s: plan.count(s) for s in STATES}, "trials": trials}


def _print_failures(plan: Plan) -> None:
    if stale := sum(t.stale and t.state == "done" for t in plan.trials):
        done = f"{stale} done trial{' comes' if stale == 1 else 's come'}"
        print(f"{done} from other sources under the same REVISION (farm plan lists them)")
    for trial in plan.trials:
        if trial.state != "done":
            reason = f": {trial.reason.splitlines()[-1]}" if trial.reason else ""
            log = f" (log: {short_path(Path(trial.log))})" if trial.log else ""
            print(f"{trial.state:<13} {trial.label}{reason}{log}")
    if plan.count("failed"):
        print("what has failed is not tried again, but by the same command with retry=failed")


def _main_results(config: Config, plan: Plan) -> list[Path]:
    """The study's main figure and table, when there is anything to show; why not, where they cannot be made."""
    if not plan.count("done"):
        return []
    from analysis.report import AnalysisError, write_main_results

    try:
        return write_main_results(config.ledger, config.settings.problem)
    except AnalysisError as error:  # what has run stays done, and the exit code says that
        print(f"farm: {error}", file=sys.stderr)
        return []


def _status(options: argparse.Namespace) -> int:
    from farm import status_view
    from farm.recall import following
    from farm.status import Status, status

    if options.watch and options.json:
        raise UsageError("--watch and --json: one of the two; --json shows it once")
    if all(word.startswith(("results=", "site=")) for word in options.overrides) and not options.watch:
        return _status_of_all(options)
    grid = following(options.overrides)

    def look() -> tuple[Status, str]:
        config, words = grid()
        return status(config), shlex.join(["farm", "run", *words])

    if options.watch:
        current = status_view.watch(look)
    else:
        current, command = look()
        if options.json:
            print(json.dumps(current.as_dict() | {"command": command}, indent=1))
        else:
            status_view.show(current, command)
    return FAILED if {"failed", "unschedulable"} & set(current.counts) else COMPLETE


def _status_of_all(options: argparse.Namespace) -> int:
    from farm import overview

    studies = overview.overview(configuration.load_place(options.overrides).results)
    if options.json:
        print(json.dumps([dataclasses.asdict(study) for study in studies], indent=1, default=str))
    else:
        print(*overview.lines(studies, [w for w in options.overrides if w.startswith("results=")]), sep="\n")
    return COMPLETE


def _why(options: argparse.Namespace) -> int:
    from farm import why
    from farm.recall import PLACE, last_grid, studies_with_results

    words = options.overrides
    plain = [w for w in words if not is_override(w)]
    named = plain or [w for w in words[:1] if w.partition("=")[0] not in (*SELECTORS, *PLACE)]
    rest = [w for w in words if w not in named]
    if len(named) != 1:
        study = shlex.join(rest) or "problem=4"
        raise UsageError(f"farm why TRIAL {study}: one trial, by its id or its label; farm plan {study} lists them")
    wanted = named[0]
    if any(w.startswith(("problem=", "study=")) for w in rest):
        studies = [rest]
    else:
        studies = studies_with_results(rest)
    grids = (grid for one in studies for grid in (last_grid(one)[0], configuration.load(one)))
    print(*why.answer(grids, wanted), sep="\n")
    return COMPLETE


def _submit(options: argparse.Namespace) -> int:
    config = configuration.load(options.overrides)
    from farm import budget
    from farm.slurm.script import render
    from farm.slurm.submit import allocation_plan, batch_job, submit

    elsewhere.check_trials(config)
    plan = allocation_plan(config)
    check_defaults(plan)
    check_work(plan)
    budget.check(plan, config.settings.max_gpu_hours)
    script = render(batch_job(config, options.overrides, plan))
    for trial in plan.trials:
        if trial.state == "unschedulable":
            remedy = "gpus_per_node= or slurm.cpus_per_node= asks for more"
            print(f"farm: {trial.label}: {trial.reason}; {remedy}", file=sys.stderr)
    if options.dry_run:
        print(script, end="")
        return FAILED if plan.count("unschedulable") else COMPLETE
    if not plan.to_run:
        print(f"{config.study}: nothing to run; farm plan lists the trials")
        return FAILED if plan.count("failed") or plan.count("unschedulable") else COMPLETE
    job = submit(config, script)
    print(f"job {job}: {len(plan.to_run)} trials of {config.study}; it requeues itself until they are done")
    print(f"{short_path(config.ledger / 'slurm' / f'{job}.log')} is its log; scancel {job} stops it")
    return COMPLETE


def _up(options: argparse.Namespace) -> int:
    from farm.slurm.up import up

    print(up(configuration.load_place(options.overrides), options.overrides, options.dry_run))
    return COMPLETE


def _down(options: argparse.Namespace) -> int:
    from farm.slurm.up import down

    print(down(configuration.load_place(options.overrides)))
    return COMPLETE


def _export(options: argparse.Namespace) -> int:
    from farm.recall import last_grid
    from farm.reporting import tell_damaged

    words, out = elsewhere.split(options.overrides)
    config = last_grid(words)[0]
    if not config.ledger.is_dir():
        raise PreflightError(f"{config.ledger}: there is no ledger yet; farm run makes one")
    elsewhere.check_trials(config)
    place = elsewhere.made_target(config, out)
    with elsewhere.hinted(config, place):
        result = elsewhere.export(config, place)
    for path in result.tables.values():
        print(short_path(path))
    if (left := result.unfinished).trials:
        told = f"{counted(left.trials, 'trial')}, {counted(left.rows, 'row')}"
        print(f"unfinished: {told} in {short_path(left.directory)}")
    tell_damaged(result.damaged)
    return FAILED if result.damaged else COMPLETE


def _prune(options: argparse.Namespace) -> int:
    from farm import prune

    return prune.run(configuration.load(options.overrides), options.yes)


def _report(options: argparse.Namespace) -> int:
    from farm import reporting

    return reporting.report(options.overrides, options.check)


def _reproduce(options: argparse.Namespace) -> int:
    from farm import reporting

    with contextlib.redirect_stdout(Output(sys.stdout)):
        return reporting.reproduce(options.overrides)


def _data(options: argparse.Namespace) -> int:
    from trials import data

    check_repeated(options.overrides)
    words = [w for w in options.overrides if "=" not in w]
    values = dict(w.split("=", 1) for w in options.overrides if "=" in w)
    root = configuration.data_directory(values.pop("data_root", None))
    results = configuration.results_directory(values.pop("results", None))
    if values or words not in ([], ["fetch"]):
        raise UsageError("farm data [fetch] [data_root=DIRECTORY] [results=DIRECTORY]")
    try:
        if words:
            _fetch(root)
        found = data.load("cifar10", root, results / ".cache")
    except (data.DataError, OSError) as error:
        raise PreflightError(str(error)) from None
    print(f"cifar10: {len(found.train_labels)} training and {len(found.test_labels)} test images, as published")
    return COMPLETE


def _fetch(root: Path) -> None:
    """Download CIFAR-10. Raises `PreflightError` where the network, or what comes out of it, is at fault."""
    from http.client import HTTPException
    from urllib.error import URLError

    from torchvision.datasets import CIFAR10

    from trials import data

    try:
        data.fetch(root)
    except (URLError, HTTPException, ConnectionError, TimeoutError, RuntimeError) as error:  # the last: a wrong MD5
        reason = error.reason if isinstance(error, URLError) else error
        raise PreflightError(
            f"{CIFAR10.url} cannot be downloaded ({reason}); farm run … data_root=DIRECTORY takes data that are there"
        ) from None


def _doctor(options: argparse.Namespace) -> int:
    from farm.doctor import examine

    named = any(o.partition("=")[0] in ("problem", "study") for o in options.overrides)
    config = configuration.load(options.overrides) if named else None
    place = configuration.load_place(options.overrides) if config is None else configuration.place_of(config)
    problems = 0
    for finding in examine(place, config):
        print(f"{finding.word}  {finding.name}: {finding.text}", flush=True)
        problems += finding.ok is False
    return COMPLETE if not problems else PreflightError.exit_code


def _image(options: argparse.Namespace) -> int:
    from farm.image import describe

    right, lines = describe(configuration.load_place(options.overrides))
    print("\n".join(lines))
    return COMPLETE if right else PreflightError.exit_code
