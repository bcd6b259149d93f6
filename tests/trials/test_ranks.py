"""Processes of one trial: what they return, and that the first failure ends them all."""

from __future__ import annotations

import errno
import multiprocessing
import multiprocessing.spawn
import os
import time
from collections.abc import Iterator

import pytest
import rank_tasks
import torch
from commands import wait_for

from farm.failures import kind_of
from trials import process
from trials import ranks as ranks_module
from trials.data_parallel import Setup
from trials.ranks import Given, RankFailed, RankOutOfMemory, Ranks, is_out_of_memory, memory_taken
from trials.spec import Drained


@pytest.fixture
def ranks() -> Iterator[Ranks]:
    with Ranks(2, "cpu", 1) as found:
        yield found


def gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_task_runs_on_all_ranks_in_one_group(ranks: Ranks) -> None:
    assert ranks.run(rank_tasks.total, 10) == [(0, 21.0), (1, 21.0)]
    assert ranks.run(rank_tasks.total, 0) == [(0, 1.0), (1, 1.0)]


def test_ranks_meet_when_the_last_has_come(ranks: Ranks) -> None:
    early, late = ranks.run(rank_tasks.meeting, 0.5)
    assert early >= 0.4 > 0.2 > late


def test_spawned_ranks_join_too() -> None:
    with Ranks(1, "cpu", 1, start_method="spawn") as ranks:
        assert ranks.run(rank_tasks.total, 10) == [(0, 10.0)]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_what_ranks_were_given_stands_among_a_tasks_arguments(method: str) -> None:
    with Ranks(2, "cpu", 1, method, given=[1, 2, 3]) as ranks:
        assert ranks.run(divmod, 7, 3) == [(2, 1)] * 2
        assert ranks.run(isinstance, Given, list) == [True] * 2
        assert ranks.run(len, Given) == [3] * 2


@pytest.mark.timeout(60)
def test_a_spawned_rank_that_dies_before_it_reads_what_it_is_given_is_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing.spawn, "_python_exe", b"/bin/false")
    with Ranks(1, "cpu", 1, "spawn", given=bytes(10**6)) as ranks, pytest.raises(RankFailed, match="exit code 1"):
        ranks.run(len, Given)


def test_what_forked_ranks_were_given_is_never_sent() -> None:
    with Ranks(1, "cpu", 1, "fork", given=lambda: 7) as ranks:  # cannot be pickled
        assert ranks.run(callable, Given) == [True]


def test_a_rank_out_of_memory_ends_those_that_wait_for_it(ranks: Ranks) -> None:
    processes = ranks.run(rank_tasks.process_id)
    with pytest.raises(RankOutOfMemory, match=r"^rank 1: CUDA out of memory. Tried to allocate 8.00 GiB.$") as caught:
        ranks.run(rank_tasks.one_runs_out_of_memory)
    assert caught.value.peak_bytes > 0
    assert all(gone(p) for p in processes)


def test_a_bug_in_a_rank_comes_with_its_traceback(ranks: Ranks) -> None:
    with pytest.raises(RankFailed, match=r"(?s)rank 0: Traceback.*one_fails.*a bug in a rank"):
        ranks.run(rank_tasks.one_fails)


def test_a_rank_that_vanishes_is_named_with_its_exit_code(ranks: Ranks) -> None:
    with pytest.raises(RankFailed, match="rank 1 ended with exit code 9") as caught:
        ranks.run(rank_tasks.one_vanishes)
    assert (caught.value.exit_code, caught.value.backend) == (9, "gloo")


def test_a_killed_rank_is_blamed_and_not_those_who_lost_their_connection_to_it(ranks: Ranks) -> None:
    with pytest.raises(RankFailed, match="rank 1 ended with exit code -9") as caught:
        ranks.run(rank_tasks.one_is_killed)
    assert caught.value.exit_code == -9


def test_a_full_disk_in_a_rank_comes_with_its_number(ranks: Ranks) -> None:
    with pytest.raises(RankFailed, match="No space left") as caught:
        ranks.run(rank_tasks.one_finds_the_disk_full)
    assert caught.value.told is not None
    assert (caught.value.told.errno, "builtins.OSError" in caught.value.told.classes) == (errno.ENOSPC, True)


def test_a_drain_ends_ranks_in_mid_task(ranks: Ranks) -> None:
    processes = ranks.run(rank_tasks.process_id)

    def stop() -> None:
        raise Drained

    with pytest.raises(Drained):
        ranks.run(rank_tasks.sleep, check_stop=stop)
    assert all(gone(p) for p in processes)


def test_a_rank_that_cannot_join_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(ranks_module, "_join", full)
    with Ranks(2, "cpu", 1) as ranks:
        for process in ranks._processes:
            process.join()
        with pytest.raises(RankOutOfMemory, match="rank 0: CUDA error: out of memory"):
            ranks.run(rank_tasks.total, 0)


def test_a_rank_whose_gpu_others_fill_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "memory_of_others", lambda *devices: (9 * 2**30, 80 * 2**30))
    with Ranks(2, "cpu", 1, start_method="fork") as ranks, pytest.raises(RankFailed, match=r"hold 9\.0 of") as caught:
        ranks.run(rank_tasks.one_runs_out_of_memory)
    assert (is_out_of_memory(caught.value), kind_of(caught.value)) == (False, "device")


@pytest.mark.parametrize(("others", "taken"), [(0, False), (3, False), (4, True)])
def test_memory_is_taken_where_others_hold_more_than_a_process_needs(
    others: int, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "memory_of_others", lambda *devices: (others * 2**30, 80 * 2**30))
    assert (memory_taken(RuntimeError("CUDA error: out of memory")) is not None) == taken
    assert memory_taken(ValueError("a bug")) is None
    assert memory_taken(RankOutOfMemory("rank 1: CUDA out of memory", 3)) is None  # the rank has looked


def test_without_cuda_nobody_holds_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert process.memory_of_others() == (0, 0)


def test_a_gpu_without_room_for_the_question_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(devices: object) -> tuple[int, int]:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(process, "memory_of_others", full)
    assert "does not say" in str(memory_taken(RuntimeError("CUDA error: out of memory")))


def test_what_others_hold_is_neither_free_nor_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: [(10, 80), (5, 80)][device])
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: [20, 74][device])
    assert process.memory_of_others() == (50, 80)
    assert process.memory_of_others([1]) == (1, 80), "a rank's own GPU, not those that the other ranks fill"


def test_a_rank_asks_who_fills_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def note(error: BaseException, devices: object = None) -> None:
        asked.append(devices)

    monkeypatch.setattr(ranks_module, "memory_taken", note)
    monkeypatch.setattr(ranks_module, "_join", lambda *arguments: 1 / 0)
    monkeypatch.setattr(ranks_module, "end_with_parent", lambda: None)
    monkeypatch.setattr(ranks_module.signal, "signal", lambda *arguments: None)
    monkeypatch.setattr(ranks_module.os, "_exit", lambda code: None)
    for rank, count in ((1, 2), (0, 1)):
        mine, theirs = multiprocessing.Pipe()
        ranks_module._serve(theirs, rank, count, "cuda", 1, os.getppid(), "", None)
        assert mine.recv()[0] == "failed"
    assert asked == [[1], None]


def test_loaders_of_a_killed_rank_end_with_it() -> None:
    """Or it holds the GPU for seconds in which new ranks would find it full."""
    setup = Setup("ddp", 2, 16, "cpu", "tf32", 1, 0, (0.5,) * 3, (0.25,) * 3, width=2, workers=1)
    with Ranks(2, "cpu", 1) as group:
        found = group.run(rank_tasks.loaders_process, setup)
        assert not any(map(gone, found))
    began = time.monotonic()
    wait_for(lambda: all(map(gone, found)))
    assert time.monotonic() - began < 3, "torch's loaders look for their parent every five seconds"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("CUDA error: out of memory", True),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True),
        ("NCCL error: unhandled cuda error, out of memory", True),
        ("a machine out of memory", False),
        ("CUDA error: an illegal memory access was encountered", False),
    ],
)
def test_memory_errors_are_known_by_their_words(message: str, expected: bool) -> None:
    assert is_out_of_memory(RuntimeError(message)) == expected
