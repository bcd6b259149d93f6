"""What the profiler saw: which names are communication, and moments counted once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trials import communication
from trials.communication import Profile, kind_of, length, profile_of, uncovered, union, without_waiting

GPU, CPU = torch.autograd.DeviceType.CUDA, torch.autograd.DeviceType.CPU


def event(name: str, start: float, stop: float, device: int = 0, where: Any = GPU, annotation: bool = False) -> Any:
    time_range = SimpleNamespace(start=start, end=stop)
    return SimpleNamespace(
        name=name, time_range=time_range, device_type=where, device_index=device, is_user_annotation=annotation
    )


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)", "all_reduce"),
        ("ncclDevKernel_Broadcast_RING_LL(ncclDevKernelArgsStorage<4096ul>)", "broadcast"),
        ("ncclDevKernel_Reduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)", "reduce"),
        ("ncclDevKernel_ReduceScatter_Sum_f32_RING_LL", None),
        ("Memcpy PtoP (Device -> Device)", "peer_copy"),
        ("Memcpy HtoD (Pageable -> Device)", None),
        ("void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float>>", None),
        ("sm90_xmma_fprop_implicit_gemm_f32f32_tf32f32_f32_nhwckrsc_nhwc", None),
    ],
)
def test_kernels_are_known_by_their_names(name: str, kind: str | None) -> None:
    assert kind_of(name, on_gpu=True) == kind


def test_gloos_work_is_known_and_its_dispatch_is_not() -> None:
    assert kind_of("gloo:all_reduce", on_gpu=False) == "all_reduce"
    assert kind_of("gloo:broadcast", on_gpu=False) == "broadcast"
    assert kind_of("c10d::allreduce_", on_gpu=False) is None


def test_intervals_that_overlap_or_touch_become_one() -> None:
    assert union([(5, 6), (0, 2), (1, 3), (3, 4)]) == [(0, 4), (5, 6)]
    assert length([(0, 2), (1, 3)]) == 3
    assert uncovered([(0, 10)], [(2, 4), (3, 5), (9, 12)]) == 6


def test_communication_hidden_behind_compute_is_told_from_exposed() -> None:
    events = [
        event("ncclDevKernel_AllReduce_Sum_f32", 0, 100),
        event("ncclDevKernel_Broadcast_RING", 90, 150),
        event("sm90_gemm", 40, 120),
        event("nccl:all_reduce", 0, 10_000, annotation=True),
        event("Context Sync", 0, 10_000),
        event("aten::conv2d", 0, 10_000, where=CPU),
    ]
    found = communication.seconds(profile_of(events, on_gpu=True))
    assert found["all_reduce"] == pytest.approx(100e-6)
    assert found["broadcast"] == pytest.approx(60e-6)
    assert found["communication"] == pytest.approx(150e-6)
    assert found["exposed"] == pytest.approx(70e-6)


def test_of_several_gpus_the_one_that_communicates_most_counts() -> None:
    events = [event("Memcpy PtoP (Device -> Device)", 0, 10, 0), event("Memcpy PtoP (Device -> Device)", 0, 30, 1)]
    assert communication.seconds(profile_of(events, on_gpu=True))["peer_copy"] == pytest.approx(30e-6)


def rank(*all_reduces: tuple[float, float], busy: tuple[float, float] = (0, 0)) -> Profile:
    events = [event("ncclDevKernel_AllReduce_Sum_f32_RING_LL", *interval) for interval in all_reduces]
    return profile_of([*events, event("sm90_gemm", *busy)], on_gpu=True)


def test_waiting_for_the_last_rank_is_not_communication() -> None:
    first, last = rank((0, 100), (200, 230)), rank((90, 100), (150, 230))  # each is late once: 10 and 30 µs move data
    row = communication.columns([first, last], 2)
    assert row["profiled_all_reduce_seconds"] == row["profiled_communication_seconds"] == pytest.approx(80e-6)
    assert row["profiled_waiting_seconds"] == pytest.approx(180e-6)  # of the rank that waited most: 90 µs, twice


def test_only_the_moving_of_data_can_be_exposed() -> None:
    early, late = rank((0, 100), busy=(0, 95)), rank((90, 100), busy=(0, 80))
    row = communication.columns([early, late], 1)
    assert row["profiled_exposed_seconds"] in (pytest.approx(5e-6), pytest.approx(10e-6))


def test_ranks_with_different_collectives_say_nothing() -> None:
    assert without_waiting([rank((0, 1)), rank((0, 1), (2, 3))]) is None
    assert communication.columns([rank((0, 1)), rank((0, 1), (2, 3))], 1) == {}


def test_columns_are_scaled_to_the_epoch_and_one_process_waits_for_nobody() -> None:
    row = communication.columns([rank((0, 1e6))], 10)
    assert (row["profiled_communication_seconds"], row["profiled_all_reduce_seconds"]) == (10, 10)
    assert "profiled_waiting_seconds" not in row


def test_a_profile_of_work_without_communication_has_none() -> None:
    found = communication.profiled(lambda: torch.ones(3).sum(), on_gpu=False)
    assert communication.seconds(found)["communication"] == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_a_gpu_kernels_and_copies_are_seen() -> None:
    there = torch.ones(1000, device="cuda")
    found = communication.profiled(lambda: torch.ones(1000).to(there.device) + there, on_gpu=True)
    assert found.communication == []
    assert length(found.other) > 0
