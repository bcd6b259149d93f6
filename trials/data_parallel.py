"""One repetition of problem 2: a fresh network, an epoch to warm up, an epoch that is measured; or profiled iterations.

`measure` runs in the trial's own process (mode `dataparallel`) or in each of its ranks (mode `ddp`); what differs is
the wrapper around the network and which images a process reads. `profile` runs in ranks, which measure nothing after.
"""

from __future__ import annotations

import functools
import gc
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler

from trials import communication, models, plain_loop, process, ranks, timing
from trials.communication import Profile
from trials.parent import end_with_parent
from trials.plain_loop import Batch, ImageDataset
from trials.seeding import derived_seed
from trials.splits import Images
from trials.timing import Laps

FLOAT_BYTES = 4
PROFILE_WARM_UP = 3
"""Iterations before those that the profiler sees."""


@dataclass(frozen=True)
class Setup:
    """All that decides a repetition. `seed` is its own: no two repetitions draw the same."""

    mode: str
    gpus: int
    batch_per_gpu: int
    device: str
    precision: str
    threads: int
    seed: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    width: int = 64
    workers: int = 2
    pinned: bool = False
    cudnn_benchmark: bool = False
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    least_iterations: int = 10
    profiled_iterations: int = 10

    @property
    def total_batch(self) -> int:
        """Images of an iteration on all GPUs."""
        return self.batch_per_gpu * self.gpus


@dataclass
class Measured:
    """What one process measured: its laps, the mean loss of the measured epoch, the host's pace after it."""

    laps: Laps
    loss: float
    samples: int
    peak_bytes: int
    launch_seconds: float | None = None


@dataclass(frozen=True)
class Profiled:
    """What the profiler saw in one process, and of how many iterations."""

    communication: Profile
    iterations: int


def resnet18(width: int, seed: int) -> nn.Module:
    """ResNet-18 of the sheet (`width` 64, 11,173,962 parameters), or a narrower one for machines without a GPU."""
    with models.seeded(seed):
        widths = (width, 2 * width, 4 * width, 8 * width)
        return models.ResNet(widths, 2, lambda a, b: models.projection(a, b, 2))


@functools.cache
def gradient_bytes(width: int) -> int:
    """Bytes of one gradient in float32: 44,695,848 at width 64."""
    return FLOAT_BYTES * models.count_parameters(resnet18(width, 0))


@functools.cache
def buffer_bytes(width: int) -> int:
    """Bytes of the network's buffers (batch norm's statistics), which DataParallel and DDP broadcast too."""
    return sum(b.numel() * b.element_size() for b in resnet18(width, 0).buffers())


def configure(device: str, threads: int, precision: str, cudnn_benchmark: bool) -> None:
    """Process-wide settings. precision=tf32 is torch's own default, TF32 in convolutions and not in products."""
    process.configure(device, threads, precision, deterministic=False)
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    torch.backends.cudnn.benchmark = cudnn_benchmark


def measure(setup: Setup, images: Images, check_stop: Callable[[], None] = lambda: None) -> Measured:
    """Warm up for an epoch, then measure one; where that has few iterations, several, of which the mean counts."""
    release_memory()
    replica = Replica(setup, images)
    replica.one_pass(Laps(), check_stop)
    replica.reset()
    laps = Laps()
    while laps.passes == 0 or laps.iterations < setup.least_iterations:
        replica.one_pass(laps, check_stop)
    timing.check_clock(laps)
    samples, peak = replica.samples // laps.passes, replica.peak_bytes()
    return Measured(laps, replica.mean_loss(), samples, peak, timing.launch_seconds(replica.devices))


def profile(setup: Setup, images: Images, check_stop: Callable[[], None] = lambda: None) -> Profiled:
    """Warm a fresh network up for a few iterations and run some under the profiler, of at most an epoch.

    Both are over the same batches, read once: with thousands of images the loader takes longer than all the rest.
    """
    release_memory()
    replica = Replica(setup, images)
    batches = []
    for batch in itertools.islice(replica.loader, setup.profiled_iterations):
        batches.append(batch)  # at most the whole set as floats, 614 MB
        check_stop()
    replica.run(itertools.islice(itertools.cycle(batches), PROFILE_WARM_UP), check_stop)
    on_gpu = bool(replica.clock.devices)
    seen = communication.profiled(lambda: replica.run(batches, check_stop), on_gpu=on_gpu)
    return Profiled(seen, len(batches))


def release_memory() -> None:
    """Give back what the last repetition held on the GPUs, or its fragments could fill them before their time."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


class Replica:
    """What one process trains: network, optimizer, loader, clock."""

    def __init__(self, setup: Setup, images: Images) -> None:
        configure(setup.device, setup.threads, setup.precision, setup.cudnn_benchmark)
        self.setup, self.examples = setup, len(images.labels)
        self.rank = dist.get_rank() if setup.mode == "ddp" else 0
        torch.manual_seed(derived_seed(setup.seed, "loader", self.rank))
        self.devices = self._devices()
        self.model = self._wrapped(resnet18(setup.width, setup.seed).to(self.devices[0]))
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), setup.learning_rate, setup.momentum, weight_decay=setup.weight_decay
        )
        self.clock = timing.DeviceClock(self.devices)
        self.loader = make_loader(setup, images, self.rank)
        self.passes = 0
        self.reset()

    def _devices(self) -> list[torch.device]:
        if self.setup.device == "cpu":
            return [torch.device("cpu")]
        if self.setup.mode == "ddp":
            return [torch.device("cuda", self.rank)]
        return [torch.device("cuda", gpu) for gpu in range(self.setup.gpus)]

    def _wrapped(self, model: nn.Module) -> nn.Module:
        on_gpu = self.setup.device == "cuda"
        if self.setup.mode == "ddp":
            return nn.parallel.DistributedDataParallel(model, device_ids=[self.rank] if on_gpu else None)
        # On a CPU DataParallel has nothing to spread over and calls the network itself.
        return nn.DataParallel(model, device_ids=list(range(self.setup.gpus)) if on_gpu else None)

    def reset(self) -> None:
        """Forget sums and peak."""
        self.loss_sum = torch.zeros((), device=self.devices[0])
        self.samples = 0
        for device in self.clock.devices:
            torch.cuda.reset_peak_memory_stats(device)

    def one_pass(self, laps: Laps, check_stop: Callable[[], None]) -> None:
        """Train for a pass over the images and add it to `laps`. Raises `WrongIterations`."""
        before = laps.iterations
        if isinstance(self.loader.sampler, DistributedSampler):
            self.loader.sampler.set_epoch(self.passes)
            dist.barrier()
        self.passes += 1
        self.model.train()
        timing.timed_pass(self.loader, self.move, self.step, self.clock, laps, check_stop, self.meet)
        timing.check_iterations(laps.iterations - before, self.examples, self.setup.batch_per_gpu, self.setup.gpus)

    def meet(self) -> None:
        """Wait until every process has its batch; one alone has nobody to wait for."""
        if self.setup.mode == "ddp":
            ranks.meet()

    def move(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """A batch from the loader, on the device."""
        images, labels = batch
        return images.to(self.devices[0]), labels.to(self.devices[0])

    def step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Forward, backward, update."""
        images, labels = batch
        loss, _ = plain_loop.train_step(self.model, self.optimizer, images, labels)
        self.loss_sum += loss * len(labels)
        self.samples += len(labels)

    def mean_loss(self) -> float:
        """Mean loss since the last reset."""
        return float(self.loss_sum.item()) / self.samples

    def peak_bytes(self) -> int:
        """Most memory of any of its GPUs since the last reset; on a CPU the process's."""
        if not self.clock.devices:
            return process.peak_memory_bytes("cpu")
        return max(torch.cuda.max_memory_allocated(d) for d in self.clock.devices)

    def run(self, batches: Iterable[Batch], check_stop: Callable[[], None]) -> None:
        """Train on these batches without timing them. Each iteration begins where that of a timed pass does."""
        self.model.train()
        for batch in batches:
            moved = self.move(batch)
            self.clock.now()  # the copy is over
            self.meet()
            self.step(moved)
            check_stop()


def make_loader(setup: Setup, images: Images, rank: int) -> DataLoader[Batch]:
    """The sheet's training loader: torchvision's transforms, `workers` processes, the last batch kept.

    DataParallel has one, which reads the batches of all GPUs; in DDP each rank has its own, of its share.
    """
    dataset = ImageDataset(images.images, images.labels, plain_loop.transform("standard", setup.mean, setup.std))
    sampler: DistributedSampler[tuple[Tensor, int]] | None = None
    if setup.mode == "ddp":
        sampler = DistributedSampler(dataset, setup.gpus, rank, seed=setup.seed % 2**32)
    batch = setup.batch_per_gpu if setup.mode == "ddp" else setup.total_batch
    # Forked, as in any script on Linux: in a spawned rank the default is to spawn, which costs seconds an epoch.
    context = "fork" if setup.workers else None
    return DataLoader(
        dataset,
        batch,
        shuffle=sampler is None,
        sampler=sampler,
        num_workers=setup.workers,
        pin_memory=setup.pinned,
        multiprocessing_context=context,
        # A rank that is killed, as all are where one runs out of memory, leaves its GPU to the next at once.
        worker_init_fn=_end_with_rank if setup.mode == "ddp" else None,
    )


def _end_with_rank(worker: int) -> None:
    end_with_parent()


def columns(found: Sequence[Measured]) -> timing.Row:
    """The measured columns of a row, from what each process measured."""
    row = timing.summary([f.laps for f in found])
    row["train_loss"] = sum(f.loss * f.samples for f in found) / sum(f.samples for f in found)
    row["samples"] = sum(f.samples for f in found)
    row["peak_memory_bytes"] = max(f.peak_bytes for f in found)
    if paces := [f.launch_seconds for f in found if f.launch_seconds is not None]:
        row["launch_seconds"] = sum(paces) / len(paces)
    return row


def profiled_columns(setup: Setup, found: Sequence[Profiled], examples: int) -> timing.Row:
    """The columns of a row from what the profiler saw in each process, scaled to an epoch of `examples` images."""
    iterations = timing.expected_iterations(examples, setup.total_batch)
    profiles = [f.communication for f in found]
    if setup.device == "cuda" and not all(profile.communication for profile in profiles):
        return {"iterations": iterations, "reason": "the profiler saw no communication between the GPUs"}
    seen = communication.columns(profiles, iterations / found[0].iterations)
    return {"iterations": iterations} | (seen or {"reason": "the ranks saw different numbers of collectives"})
