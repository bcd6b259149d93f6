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


def test_all_studies_go_there_with_an_index(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "studies_with_results", lambda overrides: [[f"study={COUNTING}", *overrides]])
    before, place = snapshot(results), words(results, f"out={tmp_path / 'mine'}")[1:]
    assert main(["report", *place]) == main(["report", *place, "--check"]) == 0
    assert snapshot(results) == before
    assert (tmp_path / "mine" / "index.html").is_file()


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


def test_the_word_needs_a_directory_and_the_last_one_counts() -> None:
    with pytest.raises(UsageError, match="out=: a directory is expected"):
        elsewhere.split(["problem=4", "out="])
    with pytest.raises(UsageError, match="out=/a and out=/b: out stands there twice"):
        elsewhere.split(["out=/a", "problem=4", "out=/b"])
    assert elsewhere.split(["problem=4", "out=/b"]) == (["problem=4"], Path("/b"))


def refuse(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "there")

    monkeypatch.setattr(module, name, refused)


def test_results_that_cannot_be_written_name_the_word(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refuse(monkeypatch, study, "export")
    assert main(["export", *words(results)]) == 3
    assert (
        capsys.readouterr().err
        == "farm: [Errno 30] Read-only file system: 'there'; out=DIRECTORY has it written elsewhere\n"
    )
    refuse(monkeypatch, reports, "write_report")
    assert main(["report", *words(results)]) == 3
    assert capsys.readouterr().err.count("out=DIRECTORY has it written elsewhere\n") == 2
    assert main(["report", *words(results, f"out={results.parent / 'mine'}")]) == 3
    assert "out=DIRECTORY" not in capsys.readouterr().err


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
