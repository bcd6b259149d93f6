"""The export: every (trial, epoch) once, declared columns, nothing of other grids."""

from __future__ import annotations

import errno
import fcntl
import gc
import json
import os
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import counting
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from attempts import attempt, directory, request
from commands import COUNTING, exported, run_farm, wait_for

from farm import config as configuration
from farm.cli import main
from farm.ledger import durable, schema
from farm.ledger import export as export_module
from farm.ledger.durable import write_directory
from farm.ledger.export import export
from farm.ledger.lock import identity, process_start
from farm.ledger.store import parquet
from farm.study import make_plan


def finish(ledger: Path, **parameters: Any) -> Path:
    wanted = request(ledger, **parameters)
    attempt(wanted)
    return directory(wanted)


def test_every_epoch_of_every_trial_is_there_once(tmp_path: Path) -> None:
    for factor in (1, 2, 3):
        finish(tmp_path, factor=factor, epochs=4)
    rows = pq.read_table(export(tmp_path, None, "counting").tables["rows"])
    keys = sorted(zip(rows["trial_id"].to_pylist(), rows["epoch"].to_pylist(), strict=True))
    assert len(keys) == len(set(keys)) == 12


def test_a_partial_trial_is_an_attempt_but_has_no_rows(tmp_path: Path) -> None:
    attempt(request(tmp_path, epochs=5), stop_at=2)
    tables = export(tmp_path, None, "counting").tables
    assert pq.read_table(tables["rows"]).num_rows == 0
    assert pq.read_table(tables["attempts"])["how"].to_pylist() == ["drained"]


def test_columns_are_the_declared_ones_and_the_configuration(tmp_path: Path) -> None:
    finish(tmp_path)
    names = pq.read_table(export(tmp_path, None, "counting").tables["rows"]).column_names
    assert {"config_factor", "config_seed", "config_epochs", "value"} <= set(names)
    assert all(n.startswith("config_") or schema.column(n, "counting") for n in names)


def test_a_second_export_reads_only_what_is_new(tmp_path: Path) -> None:
    first = finish(tmp_path, factor=1)
    export(tmp_path, None, "counting")
    (first / "done" / "rows.parquet").write_bytes(b"unreadable, and not read")
    finish(tmp_path, factor=2)
    result = export(tmp_path, None, "counting")
    assert sorted(set(pq.read_table(result.tables["rows"])["config_factor"].to_pylist())) == [1, 2]
    assert result.damaged == []


def test_a_trial_with_equal_rows_and_another_one_row_is_read_anew(tmp_path: Path) -> None:
    """It was run again, or is of another ledger of the study."""
    finish(tmp_path, factor=2)
    done = finish(tmp_path, factor=1) / "done"
    first = export(tmp_path, None, "counting").tables
    rows = pq.read_table(first["rows"])
    own = pq.read_table(done / "trial.parquet")
    again = own.set_column(own.column_names.index("host"), "host", pa.array(["another"]))
    files = {"trial.parquet": parquet(again), "rows.parquet": (done / "rows.parquet").read_bytes()}
    shutil.rmtree(done)
    write_directory(done, files, {"status": "completed"})
    second = export(tmp_path, None, "counting").tables
    assert "another" in pq.read_table(second["trials"])["host"].to_pylist()
    assert pq.read_table(second["rows"]).num_rows == rows.num_rows


def test_an_older_export_without_the_digests_of_trials_loses_none_that_is_damaged_since(tmp_path: Path) -> None:
    trial = finish(tmp_path, factor=1)
    path = export(tmp_path, None, "counting").tables["trials"]
    whole, digests = pq.read_table(path), path.with_name("digests.json")
    path.write_bytes(parquet(whole.drop_columns(["trial_sha256"])))
    digests.write_text(json.dumps(json.loads(digests.read_text()) | {path.name: durable.file_digest(path)}))
    (trial / "done" / "rows.parquet").write_bytes(b"unreadable, and not read")
    finish(tmp_path, factor=2)
    result = export(tmp_path, None, "counting")
    assert result.damaged == []
    rows = pq.read_table(result.tables["trials"]).to_pylist()
    assert len(rows) == 2
    assert whole.to_pylist()[0] in rows


def test_an_export_from_nothing_names_damaged_results(tmp_path: Path) -> None:
    bad, good = finish(tmp_path, factor=1), finish(tmp_path, factor=2)
    (bad / "done" / "rows.parquet").write_bytes(b"x")
    result = export(tmp_path, None, "counting")
    assert result.damaged == [bad]
    assert pq.read_table(result.tables["trials"])["name"].to_pylist() == [good.name]


def test_results_that_vanished_leave_the_export(tmp_path: Path) -> None:
    finish(tmp_path, factor=1)
    gone = finish(tmp_path, factor=2)
    export(tmp_path, None, "counting")
    (gone / "done").rename(gone / "damaged-1")
    assert pq.read_table(export(tmp_path, None, "counting").tables["trials"]).num_rows == 1


@pytest.mark.parametrize("table", ["rows", "trials", "attempts"])
def test_a_damaged_table_is_made_anew(tmp_path: Path, table: str) -> None:
    finish(tmp_path)
    path = export(tmp_path, None, "counting").tables[table]
    whole = pq.read_table(path)
    path.write_bytes(path.read_bytes()[:50])
    export(tmp_path, None, "counting")
    assert pq.read_table(path).equals(whole)


@pytest.mark.parametrize("table", ["rows", "trials"])
def test_a_flipped_bit_anywhere_in_a_table_is_mended(tmp_path: Path, table: str) -> None:
    """Most such files still open, and some then hold another number."""
    finish(tmp_path)
    path = export(tmp_path, None, "counting").tables[table]
    whole = path.read_bytes()
    for at in range(0, len(whole), len(whole) // 12):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        export(tmp_path, None, "counting")
        assert path.read_bytes() == whole


def test_an_export_that_died_between_its_tables_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(tmp_path, factor=1)
    export(tmp_path, None, "counting")
    finish(tmp_path, factor=2)
    with monkeypatch.context() as broken:  # the rows of both are in place, and trials.parquet is the old one
        broken.setattr(export_module, "write_file", lambda *a: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export(tmp_path, None, "counting")
    tables = export(tmp_path, None, "counting").tables
    assert pq.read_table(tables["trials"]).num_rows == 2
    assert pq.read_table(tables["rows"]).num_rows == 6


def test_results_older_than_a_parameter_have_it_at_its_introduced_default(tmp_path: Path) -> None:
    done = finish(tmp_path) / "done"
    old = pq.read_table(done / "trial.parquet").drop_columns(["config_gpus"])
    files = {"trial.parquet": parquet(old), "rows.parquet": (done / "rows.parquet").read_bytes()}
    shutil.rmtree(done)
    write_directory(done, files, {"status": "completed"})
    tables = export(tmp_path, None, "counting").tables
    assert pq.read_table(tables["trials"])["config_gpus"].to_pylist() == [0.0]
    assert pq.read_table(tables["rows"])["config_gpus"].to_pylist() == [0.0] * 3


def test_the_plan_holds_the_grid_that_was_asked_for(tmp_path: Path) -> None:
    config = configuration.load([f"study={COUNTING}", f"results={tmp_path}", "sweep.factor=[5,6,7]"])
    finish(config.ledger, factor=5)
    finish(config.ledger, factor=99)
    export(config.ledger, make_plan(config), "counting")
    plan = exported(tmp_path, "counting", "plan")
    assert [(r["config_factor"], r["state"]) for r in plan] == [(5, "done"), (6, "new"), (7, "new")]


def planned(results: Path) -> list[tuple[object, object]]:
    return [(r["config_factor"], r["state"]) for r in exported(results, "counting", "plan")]


@pytest.fixture
def swept(tmp_path: Path) -> list[str]:
    """Words for a study of which factor=5 and factor=6 were run, each by a command of its own."""
    words = [f"study={COUNTING}", f"results={tmp_path}", "executor=inline", "trial.epochs=2"]
    assert [main(["run", *words, f"sweep.factor=[{n}]"]) for n in (5, 6)] == [0, 0]
    return words[:2]


def test_a_run_says_what_of_its_study_lies_outside_its_grid(
    swept: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert planned(tmp_path) == [(6, "done")]
    assert main(["run", *swept, "executor=inline", "trial.epochs=2", "sweep.factor=[6]"]) == 0
    command = f"farm report study={COUNTING} results={tmp_path}"
    assert f"outside this grid: 1 finished trial of this study; {command} takes them in" in capsys.readouterr().out


def test_a_study_named_alone_is_exported_with_all_that_has_finished(swept: list[str], tmp_path: Path) -> None:
    assert main(["export", *swept]) == 0
    assert planned(tmp_path) == [(6, "done"), (5, "done")]
    assert main(["export", *swept, "trial.epochs=2", "sweep.factor=[5,7]"]) == 0
    assert planned(tmp_path) == [(5, "done"), (7, "new")]


def test_what_differs_in_more_than_the_sweep_stays_out(swept: list[str], tmp_path: Path) -> None:
    assert main(["run", *swept, "executor=inline", "trial.epochs=3", "sweep.factor=[5]"]) == 0
    assert main(["export", *swept]) == 0
    assert planned(tmp_path) == [(5, "done")]


def test_a_run_of_one_trial_exports_the_whole_grid(tmp_path: Path) -> None:
    words = [f"study={COUNTING}", f"results={tmp_path}", "executor=inline"]
    identity = make_plan(configuration.load(words)).trials[1].id
    assert main(["run", *words, f"trial={identity}"]) == 0
    assert planned(tmp_path) == [(1, "new"), (2, "done")]


def test_the_size_of_the_machine_that_exports_is_not_in_the_plan(tmp_path: Path) -> None:
    words = [f"study={COUNTING}", f"results={tmp_path}", "cpus=1", "gpus=0", "resources.gpu=4"]
    (tmp_path / "counting").mkdir()
    assert main(["export", *words]) == 0
    assert planned(tmp_path) == [(1, "new"), (2, "new")]


def test_pandas_reads_the_export(tmp_path: Path) -> None:
    finish(tmp_path)
    frame = pd.read_parquet(export(tmp_path, None, "counting").tables["rows"])
    assert frame["epoch"].tolist() == [1, 2, 3]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_export_that_cannot_be_written_raises(tmp_path: Path) -> None:
    finish(tmp_path)
    (tmp_path / "export").mkdir(mode=0o500)
    with pytest.raises(PermissionError):
        export(tmp_path, None, "counting")


def test_what_a_killed_writer_left_in_an_exported_trial_is_removed(tmp_path: Path) -> None:
    trial = finish(tmp_path)
    export(tmp_path, None, "counting")
    (trial / ".tmp-attempts.json-1-ab").write_text("{")
    (trial / ".tmp-done-1-ab").mkdir()
    (trial / "attempts" / "1" / ".tmp-end.json-1-ab").write_text("{")
    export(tmp_path, None, "counting")
    assert not list(trial.rglob(".tmp-*"))


def test_an_export_beside_a_run_leaves_an_attempts_record_alone_that_is_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = identity() | {"pid": os.getppid(), "pid_start": process_start(os.getppid())}
    (tmp_path / "lock").mkdir()
    (tmp_path / "lock" / "1.json").write_text(json.dumps(driver))
    attempt(wanted := request(tmp_path, epochs=5), stop_at=2)

    def replace(source: Path, target: Path) -> None:
        if target.name == "end.json" and (directory(wanted) / "done").exists():
            for _ in range(2):  # it is new to the first, and the second has it
                export(tmp_path, None, "counting")
        os.replace(source, target)

    monkeypatch.setattr(durable, "os", SimpleNamespace(**{**vars(os), "replace": replace}))
    attempt(wanted)
    export(tmp_path, None, "counting")
    assert [r["how"] for r in exported(tmp_path.parent, tmp_path.name, "attempts")] == ["drained", "completed"]
    assert os.listdir(directory(wanted) / "attempts") == ["2"]


def test_a_row_table_that_meets_a_full_disk_leaves_no_part_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the disk stays full, and the next run is refused before an export could tidy."""
    finish(tmp_path)

    def full(*arguments: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(durable, "os", SimpleNamespace(**{**vars(os), "write": full}))
        with pytest.raises(OSError, match=r"No space left on device: '.*/export/\.tmp-epochs\.parquet"):
            export(tmp_path, None, "counting")
    gc.collect()  # the Parquet writer ends its file as it goes
    assert [p.name for p in (tmp_path / "export").iterdir()] == []
    export(tmp_path, None, "counting")
    assert len(exported(tmp_path.parent, tmp_path.name, "epochs")) == 3


def test_an_export_waits_while_another_holds_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other holds it shared: only who wants it exclusively waits for that."""
    finish(tmp_path)
    begun, real = threading.Event(), export_module._export
    monkeypatch.setattr(export_module, "_export", lambda *a: (begun.set(), real(*a))[1])
    waiting = threading.Thread(target=export, args=(tmp_path, None, "counting"))
    with (tmp_path / ".export.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        waiting.start()
        wait_for(lambda: begun.is_set() or waits_for(other.fileno()))
        assert not begun.is_set()
    waiting.join()
    assert len(exported(tmp_path.parent, tmp_path.name, "epochs")) == 3


def waits_for(descriptor: int) -> bool:
    """Whether anybody waits for a lock on the open file (in /proc/locks: `1: -> FLOCK … MAJOR:MINOR:INODE …`)."""
    inode = os.fstat(descriptor).st_ino
    return any("->" in line and f":{inode} " in line for line in Path("/proc/locks").read_text().splitlines())


@pytest.mark.parametrize("value", [None, True, -1, 2**70, float("nan"), "x", [], {}])
def test_an_attempts_record_may_hold_anything(tmp_path: Path, value: Any) -> None:
    path = finish(tmp_path) / "attempts" / "1" / "attempt.json"
    names = ("seconds", "from_epoch", "host", "started_at", "gpu_ids", "how", "attempt", "error")
    path.write_text(json.dumps(dict.fromkeys(names, value)))
    path.with_name("end.json").write_text(json.dumps({"how": "completed"} | dict.fromkeys(names[:5], value)))
    (row,) = pq.read_table(export(tmp_path, None, "counting").tables["attempts"]).to_pylist()
    assert (row["attempt"], row["how"]) == (1, "completed")


def test_an_error_that_names_a_file_in_no_encoding_is_exported_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(how: str) -> None:
        raise ValueError(os.fsdecode(b"no image: bild-\xff.png"))

    monkeypatch.setattr(counting, "_end", unreadable)
    words = [f"study={COUNTING}", f"results={tmp_path}", "executor=inline", "sweep.factor=[1]"]
    assert main(["run", *words, "trial.end=failed"]) == 1
    for table, column in (("attempts", "error"), ("plan", "reason")):
        (row,) = exported(tmp_path, "counting", table)
        assert row[column].endswith(r"no image: bild-\udcff.png")
    strict = {"PYTHONIOENCODING": "utf-8:strict"}  # as in most locales
    shown = run_farm(tmp_path, *words, "trial.end=failed", verb="plan", variables=strict)
    assert (shown.err, r"bild-\udcff.png" in shown.out) == ("", True)
