"""What a trial ran on, read from nvidia-smi's words."""

from __future__ import annotations

import os

import pytest

from trials import machine

QUERY = """0, GPU-aaa, NVIDIA H200, 580.159.04, 345, 3201, 1980, 700.00, 5, 16, 143771
1, GPU-bbb, NVIDIA H200, 580.159.04, 1980, 3201, 1980, [N/A], 5, 16, 143771
"""
NVLINK = """\t\x1b[4mGPU0\tGPU1\tGPU2\tNIC0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\x1b[0m
GPU0\t X \tNV18\tNV18\tPIX\t0-47\t0\t\tN/A
GPU1\tNV18\t X \tNV18\tSYS\t0-47\t0\t\tN/A
GPU2\tNV18\tNV18\t X \tSYS\t48-95\t1\t\tN/A
NIC0\tPIX\tSYS\tSYS\t X

Legend:

  X    = Self
  SYS  = Connection traversing PCIe as well as the SMP interconnect between NUMA nodes
"""


def test_gpus_are_rows_and_unknown_values_are_none() -> None:
    rows = machine.gpu_rows(QUERY)
    assert [(r["gpu"], r["model"], r["clock_sm_mhz"], r["power_limit_watts"]) for r in rows] == [
        (0, "NVIDIA H200", 345, 700.0),
        (1, "NVIDIA H200", 1980, None),
    ]


def test_without_nvidia_smi_there_are_no_gpus() -> None:
    assert machine.gpu_rows(None) == []


def test_equal_links_are_said_once() -> None:
    assert machine.topology(NVLINK) == "3 GPUs, NV18 between all"


def test_unequal_links_are_listed_by_pair() -> None:
    mixed = NVLINK.replace("GPU1\tNV18\t X \tNV18", "GPU1\tNV18\t X \tSYS").replace(
        "GPU2\tNV18\tNV18", "GPU2\tNV18\tSYS"
    )
    assert machine.topology(mixed) == "3 GPUs, 0-1 NV18, 0-2 NV18, 1-2 SYS"


def test_one_gpu_has_no_links() -> None:
    assert machine.topology("\tGPU0\tCPU Affinity\tNUMA Affinity\nGPU0\t X \t0-15\t0\n") == "1 GPU"


@pytest.mark.parametrize(
    ("names", "expected"), [(None, [0, 1]), (["1"], [1]), (["1", "0"], [1, 0]), (["GPU-bbb"], [1]), ([], [])]
)
def test_own_gpus_follow_the_order_of_the_visible_ones(names: list[str] | None, expected: list[int]) -> None:
    assert [r["gpu"] for r in machine.own_gpus(machine.gpu_rows(QUERY), names, 2)] == expected


def test_other_processes_on_our_gpus_are_counted() -> None:
    apps = f"{os.getpid()}, GPU-aaa\n4242, GPU-aaa\n4243, GPU-ccc\n"
    assert machine.cotenants(apps, ["GPU-aaa", "GPU-bbb"]) == 1
    assert machine.cotenants("", ["GPU-aaa"]) == 0
    assert machine.cotenants(None, ["GPU-aaa"]) is None


def test_a_cpu_says_cpu() -> None:
    common, rows = machine.facts("cpu", 2)
    assert (common["device"], common["topology"], rows) == ("cpu", "cpu", [])
