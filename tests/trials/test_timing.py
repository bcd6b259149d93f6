"""The protocol of timing, against a device whose work takes a known time behind the program's back."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from trials import timing
from trials.timing import Laps, WrongClock, WrongIterations

LOADING, COPYING, LAUNCH, WORK = 0.02, 0.01, 0.001, 0.1


class Device:
    """A made-up device and its clock: `step` takes LAUNCH on the host and WORK on the device."""

    def __init__(self, waits: bool) -> None:
        self.waits, self.host, self.busy_until = waits, 0.0, 0.0

    def now(self) -> float:
        if self.waits:
            self.host = max(self.host, self.busy_until)
        return self.host

    def mark(self) -> float:
        self.busy_until = max(self.busy_until, self.host)
        return self.busy_until

    def between(self, start: float, stop: float) -> float:
        return stop - start

    def step(self, batch: int) -> None:
        self.host += LAUNCH
        self.busy_until = max(self.busy_until, self.host) + WORK

    def move(self, batch: int) -> int:
        self.host += COPYING
        return batch

    def batches(self, count: int) -> Iterator[int]:
        for number in range(count):
            self.host += LOADING
            yield number
        self.host += LOADING


def laps_of(device: Device, count: int = 4, passes: int = 1) -> Laps:
    laps = Laps()
    for _ in range(passes):
        timing.timed_pass(device.batches(count), device.move, device.step, device, laps)
    return laps


def test_each_part_of_an_iteration_has_its_time() -> None:
    laps = laps_of(Device(waits=True))
    assert laps.data == pytest.approx([LOADING] * 4)
    assert laps.copy == pytest.approx([COPYING] * 4)
    assert laps.step == pytest.approx([LAUNCH + WORK] * 4)
    assert laps.device == pytest.approx([LAUNCH + WORK] * 4)
    assert laps.tail == pytest.approx(LOADING)


def test_the_parts_add_up_to_the_epoch() -> None:
    laps = laps_of(Device(waits=True), passes=3)
    assert sum(laps.data) + sum(laps.copy) + sum(laps.step) + laps.tail == pytest.approx(laps.seconds)


def test_waiting_for_the_other_processes_batches_is_data_wait_and_no_step() -> None:
    device, laps = Device(waits=True), Laps()

    def meet() -> None:
        device.host += 7 * LOADING

    timing.timed_pass(device.batches(3), device.move, device.step, device, laps, meet=meet)
    assert laps.data == pytest.approx([8 * LOADING] * 3)
    assert laps.step == pytest.approx([LAUNCH + WORK] * 3)


def test_a_clock_that_does_not_wait_is_caught() -> None:
    laps = laps_of(Device(waits=False))
    assert sum(laps.step) < sum(laps.device)
    with pytest.raises(WrongClock, match="read before the device had finished"):
        timing.check_clock(laps)


def test_a_clock_that_waits_is_believed() -> None:
    timing.check_clock(laps_of(Device(waits=True)))


def test_a_device_without_a_clock_of_its_own_has_nothing_to_contradict() -> None:
    timing.check_clock(Laps(step=[0.1], seconds=0.1, passes=1))


@pytest.mark.parametrize(("batch", "counts"), [(32, [1563, 782, 391]), (128, [391, 196, 98]), (512, [98, 49, 25])])
def test_weak_scaling_divides_the_iterations_of_the_full_set(batch: int, counts: list[int]) -> None:
    assert [timing.expected_iterations(50_000, batch * gpus) for gpus in (1, 2, 4)] == counts


def test_a_total_batch_sold_as_each_gpus_is_caught() -> None:
    timing.check_iterations(782, 50_000, 32, 2)
    with pytest.raises(WrongIterations, match="1563 iterations where 32 images on each of 2 GPUs make 782"):
        timing.check_iterations(1563, 50_000, 32, 2)


def test_an_epoch_is_the_mean_pass_and_its_parts_the_mean_rank() -> None:
    ranks = [laps_of(Device(waits=True), passes=2), laps_of(Device(waits=True), passes=2)]
    ranks[1].data = [2 * s for s in ranks[1].data]
    ranks[1].seconds *= 2
    row = timing.summary(ranks)
    assert (row["iterations"], row["passes"]) == (4, 2)
    assert row["epoch_seconds"] == pytest.approx(ranks[1].seconds / 2)
    assert row["data_seconds"] == pytest.approx(1.5 * 4 * LOADING + LOADING)
    assert row["step_seconds"] == pytest.approx(4 * (LAUNCH + WORK))
    assert (row["step_p50_seconds"], row["step_p95_seconds"]) == pytest.approx((LAUNCH + WORK, LAUNCH + WORK))


def test_a_cpu_has_no_time_by_events() -> None:
    laps = laps_of(Device(waits=True))
    laps.device = []
    assert not any(math.isfinite(v) for k, v in timing.summary([laps]).items() if k.startswith("device"))
