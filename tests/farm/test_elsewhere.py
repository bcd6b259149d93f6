"""`out=DIRECTORY`: tables and report of results that are not to be written, or cannot be."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from attempts import attempt, request
from commands import COUNTING, ROOT, command, environment, exported

from analysis import report as reports
from farm import elsewhere, reporting, study
from farm.cli import main
from farm.errors import UsageError


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A study with two finished trials, and litter that an export of one's own ledger would remove."""
    results = tmp_path / "results"
    assert main(["run", f"study={COUNTING}", f"results={results}", "executor=inline"]) == 0
    (next(results.glob("counting/trials/*")) / ".tmp-attempts.json-1-ab").write_text("{")
    return results


def words(results: Path, *more: str) -> list[str]:
    return [f"study={COUNTING}", f"results={results}", *more]


def snapshot(directory: Path) -> dict[Path, tuple[int, int]]:
    paths = [directory, *directory.rglob("*")]
    return {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in paths}


def test_report_and_tables_are_elsewhere_and_the_results_as_they_were(results: Path, tmp_path: Path) -> None:
    shutil.rmtree(results / "counting" / "export")
    before, out = snapshot(results), tmp_path / "mine"
    assert main(["report", *words(results, f"out={out}")]) == 0
    assert main(["report", *words(results, f"out={out}"), "--check"]) == 0
    assert main(["export", *words(results, f"out={out}")]) == 0
    assert snapshot(results) == before
    assert (out / "counting" / "report" / "index.html").is_file()
    assert (out / "counting" / "study.yaml").read_bytes() == (results / "counting" / "study.yaml").read_bytes()
    assert {row["config_factor"] for row in exported(out, "counting", "trials")} == {1, 2}


def test_a_trial_that_came_since_makes_the_report_elsewhere_older(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = f"out={tmp_path / 'mine'}"
    assert main(["report", *words(results, out)]) == 0
    attempt(request(results / "counting", factor=3))
    assert main(["report", *words(results, out), "--check"]) == 1
    assert "1 finished trial came after the export" in capsys.readouterr().err
    assert main(["report", *words(results, out)]) == main(["report", *words(results, out), "--check"]) == 0
    assert len(exported(tmp_path / "mine", "counting", "trials")) == 3


def test_an_export_without_its_trials_is_reported_elsewhere(results: Path, tmp_path: Path) -> None:
    assert main(["export", *words(results)]) == 0
    shutil.rmtree(results / "counting" / "trials")
    before = snapshot(results)
    assert main(["report", *words(results, f"out={tmp_path / 'mine'}")]) == 0
    assert snapshot(results) == before
    assert (tmp_path / "mine" / "counting" / "report" / "report.md").is_file()


def test_tables_without_their_trials_are_not_emptied(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(results / "counting" / "trials")
    before = snapshot(results)
    for more in ([], [f"out={tmp_path / 'mine'}"]):
        assert main(["export", *words(results, *more)]) == 3
        assert "counting: 2 trials in export/, and no trials/; farm report shows them" in capsys.readouterr().err
    assert snapshot(results) == before
    (tmp_path / "empty" / "counting").mkdir(parents=True)
    assert main(["export", *words(tmp_path / "empty")]) == main(["export", *words(tmp_path / "empty")]) == 0


@pytest.mark.parametrize("verb", ["run", "plan", "submit", "prune"])
def test_a_copied_export_is_not_run_into(verb: str, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = results / "counting"
    shutil.rmtree(ledger / "trials")
    (ledger / ".tmp-left-1-ab").write_text("")  # prune exports when it has removed something
    before = snapshot(results)
    assert main([verb, *words(results), *{"run": ["executor=inline"], "prune": ["--yes"]}.get(verb, [])]) == 3
    assert "a run needs another results=, or export/ moved away" in capsys.readouterr().err
    assert snapshot(results) == before
    assert main(["report", *words(results)]) == 0
    (ledger / "export").rename(results.parent / "copied")
    assert main(["run", *words(results), "executor=inline"]) == 0


def test_all_studies_go_there_with_an_index(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "studies_with_results", lambda overrides: [[f"study={COUNTING}", *overrides]])
    before, place = snapshot(results), words(results, f"out={tmp_path / 'mine'}")[1:]
    assert main(["report", *place]) == main(["report", *place, "--check"]) == 0
    assert snapshot(results) == before
    assert (tmp_path / "mine" / "index.html").is_file()


@pytest.mark.parametrize("name", ["index.html", "index.md"])
def test_an_index_that_the_word_did_not_make_stays(
    name: str, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reporting, "studies_with_results", lambda overrides: [[f"study={COUNTING}", *overrides]])
    out, both = tmp_path / "mine", words(results, f"out={tmp_path / 'mine'}")
    out.mkdir()
    (out / name).write_text("of somebody else")
    assert main(["report", *both[1:]]) == main(["report", *both[1:], "--check"]) == 3
    assert f"out={out}: its index.html or index.md is not of farm report" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == [name]
    assert main(["report", *both]) == 0  # the study's alone, which needs no index
    assert (out / name).read_text() == "of somebody else"


def test_an_index_that_the_word_made_goes_with_the_reports(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "studies_with_results", lambda overrides: [[f"study={COUNTING}", *overrides]])
    both = words(results, f"out={tmp_path / 'mine'}")
    assert main(["report", *both[1:]]) == 0
    for more, told in ((both, "3 done"), (both[1:], "4 done")):
        attempt(request(results / "counting", factor=int(told[0])))
        assert main(["report", *more]) == 0
        assert told in (tmp_path / "mine" / "index.html").read_text()


def test_a_directory_with_a_ledger_of_its_own_is_refused(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    assert main(["run", *words(mine), "executor=inline", "sweep.factor=[7]"]) == 0
    before = snapshot(mine)
    for verb in ("report", "export"):
        assert main([verb, *words(results, f"out={mine}")]) == 3
        assert "is a ledger of its own; name another directory" in capsys.readouterr().err
    assert snapshot(mine) == before
    assert main(["report", *words(results, f"out={results}")]) == 0  # its own is where it would go anyway


def test_the_word_needs_one_directory() -> None:
    with pytest.raises(UsageError, match="out=: a directory is expected"):
        elsewhere.split(["problem=4", "out="])
    with pytest.raises(UsageError, match="out=/a and out=/b: out stands there twice"):
        elsewhere.split(["out=/a", "problem=4", "out=/b"])
    assert elsewhere.split(["problem=4", "out=/b"]) == (["problem=4"], Path("/b"))


def refuse(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, file: Path) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(file))

    monkeypatch.setattr(module, name, refused)


def test_results_that_cannot_be_written_name_the_word(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = results / "counting" / ".export.lock"
    refuse(monkeypatch, study, "export", lock)
    assert main(["export", *words(results)]) == 3
    assert (
        capsys.readouterr().err
        == f"farm: [Errno 30] Read-only file system: '{lock}'; out=DIRECTORY has it written elsewhere\n"
    )
    refuse(monkeypatch, reports, "write_report", results / "counting" / "report" / "report.md")
    assert main(["report", *words(results)]) == 3
    assert capsys.readouterr().err.count("out=DIRECTORY has it written elsewhere\n") == 2
    assert main(["report", *words(results, f"out={results.parent / 'mine'}")]) == 3
    assert "out=DIRECTORY" not in capsys.readouterr().err


def test_a_file_that_cannot_be_read_does_not_name_the_word(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refuse(monkeypatch, study, "export", results / "counting" / "trials" / "one" / "done" / "manifest.json")
    assert main(["export", *words(results)]) == 3
    assert main(["report", *words(results)]) == 0
    told = capsys.readouterr().err
    assert "the report shows what was last exported\n" in told
    assert "out=" not in told


def test_a_directory_made_from_another_ledger_is_refused(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, other = tmp_path / "mine", tmp_path / "other"
    assert main(["report", *words(results, f"out={out}")]) == 0
    assert main(["run", *words(other), "executor=inline"]) == 0
    before = snapshot(out)
    for verb in ("report", "export"):
        assert main([verb, *words(other, f"out={out}")]) == 3
        told = f"has tables or a report not made from {other / 'counting'}; name another directory"
        assert told in capsys.readouterr().err
    assert snapshot(out) == before


@pytest.mark.parametrize("part", ["export", "report"])
def test_an_export_or_a_report_that_the_word_did_not_make_is_refused(
    part: str, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "copied" / "counting" / part).mkdir(parents=True)
    for verb in ("report", "export"):
        assert main([verb, *words(results, f"out={tmp_path / 'copied'}")]) == 3
        assert "name another directory" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "copied").rglob("*")] == ["counting", part]


@pytest.mark.parametrize("below", ["counting", "counting/trials"])
def test_a_place_in_the_ledger_is_refused(below: str, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = snapshot(results)
    for verb in ("report", "export"):
        assert main([verb, *words(results, f"out={results / below}")]) == 3
        assert "is in the ledger" in capsys.readouterr().err
    assert snapshot(results) == before


@pytest.mark.parametrize("below", ["counting", "counting/trials/mine"])
def test_a_place_in_another_ledger_is_refused(
    below: str, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    assert main(["run", *words(other), "executor=inline"]) == 0
    before = snapshot(other)
    for verb in ("report", "export"):
        assert main([verb, *words(results, f"out={other / below}")]) == 3
        assert f"is in the ledger {other / 'counting'}; name another directory" in capsys.readouterr().err
    assert snapshot(other) == before


def test_a_place_beside_sources_of_trials_is_none_in_a_ledger(results: Path, tmp_path: Path) -> None:
    (tmp_path / "mine" / "trials").mkdir(parents=True)
    (tmp_path / "mine" / "study.yaml").write_text("study: mine\nmodule: trials.mine\n")
    assert main(["export", *words(results, f"out={tmp_path / 'mine' / 'reports'}")]) == 0


@pytest.mark.parametrize("kind", ["file", "link", "proc"])
def test_a_place_that_cannot_be_made_is_said_in_one_line(
    kind: str, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = {"file": tmp_path / "file", "link": tmp_path / "link", "proc": Path("/proc/x")}[kind]
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for verb in ("report", "export"):
        assert main([verb, *words(results, f"out={out}")]) == 3
        told = capsys.readouterr().err
        assert told.startswith(f"farm: out={out}: cannot be made: ")
        assert told.count("\n") == 1
    monkeypatch.setattr(reporting, "studies_with_results", lambda overrides: [[f"study={COUNTING}", *overrides]])
    assert main(["report", *words(results, f"out={out}")[1:]]) == 3


def test_an_export_without_its_trials_that_changed_makes_the_copy_older(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = words(results, f"out={tmp_path / 'mine'}")
    attempt(request(results / "counting", factor=3))
    shutil.copytree(results / "counting", tmp_path / "all" / "counting")
    shutil.rmtree(results / "counting" / "trials")
    assert main(["report", *mine]) == main(["report", *mine, "--check"]) == 0
    assert main(["export", *words(tmp_path / "all")]) == 0
    shutil.copytree(tmp_path / "all" / "counting" / "export", results / "counting" / "export", dirs_exist_ok=True)
    capsys.readouterr()
    assert main(["report", *mine, "--check"]) == 1
    assert "trials.parquet has changed since it was copied for the report" in capsys.readouterr().err
    assert main(["report", *mine]) == main(["report", *mine, "--check"]) == 0


def test_a_file_system_that_is_read_only_is_reported(results: Path, tmp_path: Path) -> None:
    """As root in a mount namespace of its own, or not at all."""
    mount = f"mount --bind -o ro {results} {results} && mount -o remount,bind,ro {results}"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("no read-only mount can be made here")

    def there(verb: str, *more: str) -> subprocess.CompletedProcess[str]:
        line = ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh", *command(*words(results, *more), verb=verb)]
        variables = environment() | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(line, capture_output=True, text=True, check=False, env=variables, timeout=120)

    for verb in ("export", "report"):
        refused = there(verb)
        assert refused.returncode == 3
        assert refused.stderr.endswith("out=DIRECTORY has it written elsewhere\n")
        assert there(verb, f"out={tmp_path / 'mine'}").returncode == 0
    assert (tmp_path / "mine" / "counting" / "report" / "index.html").is_file()


@pytest.mark.parametrize("verb", ["report", "export"])
def test_help_knows_the_word(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, f"study={COUNTING}", "out=there", "--help"]) == 0
    assert "out=DIRECTORY: tables and report go there" in capsys.readouterr().out


def test_help_of_another_verb_does_not() -> None:
    assert main(["plan", f"study={COUNTING}", "out=there", "--help"]) == UsageError.exit_code
