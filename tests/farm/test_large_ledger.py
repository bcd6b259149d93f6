"""An export holds few trials in memory at once, and reads those that it has not got: benchmarks/ledger.py at length."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.ledger import MODULE, make
from farm.ledger import export as export_module
from farm.ledger import gather
from farm.ledger.export import export

TRIALS, EPOCHS = 400, 150


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("large") / "problem4"
    make(root, range(TRIALS), EPOCHS)
    return root


def peak_bytes(ledger: Path, batch: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Most that Arrow held of a whole export above what it held before."""
    monkeypatch.setattr(gather, "BATCH", batch)
    shutil.rmtree(ledger / "export", ignore_errors=True)
    pool, before, peak = pa.default_memory_pool(), pa.total_allocated_bytes(), 0
    joined = gather._joined

    def watched(tables: list[pa.Table]) -> pa.Table:
        nonlocal peak
        whole = joined(tables)
        peak = max(peak, pool.bytes_allocated() - before)
        return whole

    monkeypatch.setattr(gather, "_joined", watched)
    found = pq.read_table(export(ledger, None, MODULE).tables["rows"], columns=["trial_id", "epoch"])
    monkeypatch.setattr(gather, "_joined", joined)
    assert found.num_rows == found.group_by(["trial_id", "epoch"]).aggregate([]).num_rows == TRIALS * EPOCHS
    return peak


def test_memory_grows_with_the_batch_and_not_with_the_ledger(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, tenth = (peak_bytes(ledger, batch, monkeypatch) for batch in (TRIALS, TRIALS // 10))
    assert tenth < whole / 3


def test_what_was_exported_is_copied_and_not_read_again(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(ledger, None, MODULE)
    make(ledger, range(TRIALS, TRIALS + 3), EPOCHS)
    read: list[Path] = []
    real = gather.read
    monkeypatch.setattr(export_module, "read", lambda trial: read.append(trial) or real(trial))  # type: ignore[func-returns-value]
    tables = export(ledger, None, MODULE).tables
    assert len(read) == 3
    assert pq.read_table(tables["rows"], columns=["epoch"]).num_rows == (TRIALS + 3) * EPOCHS
    assert pq.read_table(tables["trials"], columns=["rows"])["rows"].to_pylist() == [EPOCHS] * (TRIALS + 3)
