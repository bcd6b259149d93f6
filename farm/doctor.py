"""`farm doctor`: what would make a run fail, before anything queues; each finding with its remedy."""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib
import os
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from farm import provenance
from farm.config import Config, Place
from farm.errors import FarmError, PreflightError
from farm.ledger import durable
from farm.private import private_directory
from farm.site import absolute, expand, image_path, no_image
from farm.slurm.script import render
from farm.slurm.submit import allocation_plan, batch_job, doctor_script, placement_options, sbatch

LEAST_FREE_BYTES = 1 << 30
LEAST_FREE_FILES = 10_000
TRIAL_FILES, TRIAL_BYTES = 64, 16 << 20
PACKAGES = ("torch", "torchvision", "ray", "pandas", "pyarrow", "matplotlib", "omegaconf", "rich")
LOCAL_KINDS = ("ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "f2fs", "ramfs",
               "fuse.fuse-overlayfs")  # fmt: skip
SRUN_SECONDS = 60
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
BUSY = (
    "Unable to allocate resources: Requested nodes are busy",
    "Unable to allocate resources: Connection timed out",
    "Immediate execution impossible",
    "Immediate allocation not granted",
    "Job can not start immediately",
)
"""What srun says when --immediate is over and nothing is wrong but the wait (Slurm's slurm_errno.c)."""
SILENT = (
    "Unable to contact slurm controller",
    "Unable to establish controller machine",
    "Unable to establish configuration source",
    "Could not establish a configuration source",
    "Zero Bytes were transmitted or received",
    "timed out on send/recv",
)
"""What Slurm's commands say when its controller does not answer them."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `text` ends with the remedy where it is not right; `ok` None: it was not tried."""

    name: str
    ok: bool | None
    text: str

    @property
    def word(self) -> str:
        """What stands before it on the screen."""
        return {True: "ok  ", False: "FAIL", None: "----"}[self.ok]


def examine(place: Place, config: Config | None) -> Iterator[Finding]:
    """Every check in turn, each finding as it is made. `config` adds a study's dataset to them."""
    yield from _packages()
    yield gpus()
    yield _guarded("/dev/shm", lambda: shared_memory(shutil.disk_usage("/dev/shm").total))
    yield _guarded("socket path", lambda: socket_path(expand(place.settings.slurm.temporary)))
    yield _guarded("temporary", lambda: temporary(Path(absolute("slurm.temporary", place.settings.slurm.temporary))))
    yield _guarded("sockets", sockets)
    if place.site == "local":
        yield from _own_temporary()
    yield ports()
    yield _guarded("token", token)
    yield _guarded("results", lambda: results(place.results))
    if config is not None:
        yield dataset(config)
    if place.site != "local":
        yield _guarded("image", lambda: image(image_path(place.settings.slurm)))
        yield from _slurm(place, config)


def _guarded(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except (FarmError, OSError) as error:  # the checks that follow are made all the same
        return Finding(name, False, str(error))


def _packages() -> Iterator[Finding]:
    for package in PACKAGES:
        try:
            module = importlib.import_module(package)
        except ImportError as error:
            yield Finding(package, False, f"{error}; make setup installs what requirements.lock names")
        else:
            yield Finding(package, True, str(getattr(module, "__version__", "present")))


def gpus() -> Finding:
    """Whether torch's CUDA build can use this machine's driver and GPUs."""
    import torch

    models = provenance.gpu_models()
    capabilities, kinds = [], []
    if models and torch.cuda.is_available():
        capabilities = [torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())]
        kinds = torch.cuda.get_arch_list()
    return gpu_finding(models, torch.__version__, driver_version(), torch.cuda.is_available(), capabilities, kinds)


def gpu_finding(
    models: tuple[str, ...],
    torch_version: str,
    driver: str,
    usable: bool,
    capabilities: list[tuple[int, int]],
    kinds: list[str],
) -> Finding:
    """`capabilities` of the GPUs, e.g. (7, 0), against the `kinds` that torch was compiled for, e.g. "sm_75"."""
    if not models:
        return Finding("GPUs", True, "none; use device=cpu resources.gpu=0, or profile=smoke")
    found = f"{', '.join(models)}; driver {driver}; torch {torch_version}"
    if not usable:
        return Finding("GPUs", False, f"{found} cannot use them; a newer driver, or an image with an older CUDA build")
    compiled = sorted(int(k.partition("_")[2]) for k in kinds if k.startswith("sm_") and k[3:].isdigit())
    for major, minor in capabilities:
        same = [k for k in compiled if k // 10 == major and k % 10 <= minor]
        if compiled and not same and f"compute_{major}{minor}" not in kinds:
            remedy = "build the image with CUDA=cu126 (docs/cluster.md)"
            return Finding("GPUs", False, f"{found} has no code for compute capability {major}.{minor}; {remedy}")
    return Finding("GPUs", True, found)


def driver_version() -> str:
    """The NVIDIA driver's version, or "none"."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (subprocess.SubprocessError, OSError):
        return "none"
    return answer.stdout.splitlines()[0].strip() if answer.stdout.strip() else "none"


def shared_memory(size: int) -> Finding:
    """Ray's object store and DataLoader workers live in /dev/shm."""
    text = f"{size / 2**30:.1f} GiB for Ray's objects"
    remedy = "" if size >= LEAST_FREE_BYTES else "; docker run --shm-size=2g, or apptainer without --contain"
    return Finding("/dev/shm", not remedy, text + remedy)


def sockets() -> Finding:
    """The fork server's sockets and a local Ray's token lie in a directory that only this user can enter.

    The check makes it (/tmp/farm-UID, say) where it is not there, as a run would.
    """
    return Finding("sockets", True, f"{private_directory()} is yours alone")


def _own_temporary() -> Iterator[Finding]:
    """Where the variables of this shell put the files of a Ray of our own, and those of Ray Tune."""
    named = [key for key in ("RAY_TMPDIR", "TMPDIR") if key in os.environ]
    if named:  # Ray takes the first
        yield _guarded("socket path", lambda: socket_path(os.environ[named[0]], "ray", named[0]))
    for key in named:
        yield _guarded("temporary", functools.partial(temporary, Path(os.environ[key]).absolute(), key))


def socket_path(directory: str, name: str = f"r{2**32}", key: str = "slurm.temporary") -> Finding:
    """A socket's name holds 107 bytes, and Ray makes long ones in `name` below the directory that `key` says."""
    from farm.slurm.node import LONGEST_SOCKET, SOCKET_PATH_BYTES

    length = len(os.fsencode(f"{directory}/{name}{LONGEST_SOCKET}"))
    text = f"Ray's longest under {directory} has {length} of {SOCKET_PATH_BYTES} bytes"
    enough = length <= SOCKET_PATH_BYTES
    return Finding("socket path", enough, text + _unless(enough, f"; {key}=/tmp is short enough"))


def temporary(directory: Path, key: str = "slurm.temporary") -> Finding:
    """Ray's sockets, logs and spilled objects need a directory of this node's own, which `key` says."""
    name = f"temporary {directory}"
    if key != "slurm.temporary":  # a run makes it where it is not there; a job does not
        directory = _existing(directory)
    if not (directory.is_dir() and os.access(directory, os.W_OK)):
        return Finding(name, False, f"cannot be written; {key}=/tmp, or another directory on the node's disk")
    kind, free = file_system(directory), shutil.disk_usage(directory).free
    if kind not in LOCAL_KINDS:
        return Finding(name, False, f"is {kind}, which nodes share; {key}= a directory on the node's disk")
    enough = free >= LEAST_FREE_BYTES
    return Finding(
        name, enough, f"{kind}, {free / 2**30:.0f} GiB free{_unless(enough, '; 1 GiB is needed: free some')}"
    )


def file_system(path: Path) -> str:
    """Kind of the file system that holds a path, e.g. "ext4", "nfs4", "lustre"."""
    best, kind = "", "unknown"
    real = str(path.resolve())
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, mounted_kind, *_ = line.split()
        mount = mount.encode().decode("unicode_escape")
        inside = real == mount or real.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, mounted_kind
    return kind


def ports() -> Finding:
    """Ray's services listen on ports that follow from the job's id."""
    from farm.slurm import node

    try:
        first = min(node.ports(int(os.environ.get("SLURM_JOB_ID", os.getpid()))).values())
    except RuntimeError as error:
        return Finding("ports", False, f"{error}; other Rays on this node may have to end first")
    return Finding("ports", True, f"{len(node.PORTS)} in a row from {first} are free")


def token() -> Finding:
    """Every cluster that the farm starts asks for a token; nothing here may switch that off or give it away."""
    if os.environ.get("RAY_AUTH_MODE", "token") != "token":
        mode = os.environ["RAY_AUTH_MODE"]
        return Finding("token", False, f"RAY_AUTH_MODE={mode}: anybody on the network may run code; unset it")
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if path.exists() and path.stat().st_mode & 0o077:
        return Finding("token", False, f"{path} can be read by others; chmod 600 {path}")
    return Finding("token", True, "on; every run makes one of its own, readable by you alone")


def results(directory: Path) -> Finding:
    """Room for bytes, for files, and under the quota: what a trial writes is written, and removed."""
    place = _existing(directory)
    if not place.is_dir():
        return Finding("results", False, f"{place} is a file, and no directory; use results=… or FARM_RESULTS")
    if not os.access(place, os.W_OK):
        return Finding("results", False, f"{directory} cannot be written; use results=… or FARM_RESULTS")
    room = os.statvfs(place)
    free = room.f_bavail * room.f_frsize
    text = f"{directory} ({file_system(place)}, {free / 2**30:.0f} GiB free"
    if free < LEAST_FREE_BYTES:
        return Finding("results", False, f"{text}); free some, or results=… elsewhere")
    if room.f_files and room.f_favail < LEAST_FREE_FILES:
        return Finding("results", False, f"{text}, {room.f_favail} files left); remove some, or results=… elsewhere")
    try:
        _fill(place)
    except OSError as error:
        quota = _unless(error.errno not in FULL, "look at your quota, or ")
        return Finding("results", False, f"{text}): {error.strerror}; {quota}results=… elsewhere")
    return Finding("results", True, f"{text}{f', {room.f_favail:,} more files fit' if room.f_files else ''})")


def _existing(directory: Path) -> Path:
    """The directory, or the nearest above it that is there."""
    return next(p for p in [directory, *directory.parents] if p.exists())


def _fill(place: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".farm-doctor-", dir=place) as scratch:
        for number in range(TRIAL_FILES):
            with (Path(scratch) / str(number)).open("wb") as sink:
                sink.write(bytes(TRIAL_BYTES // TRIAL_FILES))
                sink.flush()
                os.fsync(sink.fileno())


def dataset(config: Config) -> Finding:
    """The study's dataset is there, and is the published one."""
    from trials import data

    name = config.settings.data
    if name == "none":
        return Finding("data", True, "none is needed")
    try:
        with tempfile.TemporaryDirectory(prefix=".farm-doctor-", dir=_existing(config.results)) as scratch:
            cache = config.cache if config.cache.is_dir() else Path(scratch)  # none is made where there is none yet
            found = data.load(name, config.data_root, cache)
    except (data.DataError, OSError) as error:
        return Finding("data", False, f"{name}: {error}")
    right = found.fingerprint == data.fingerprint_of(name)
    text = f"{name}, fingerprint {found.fingerprint[:12]}"
    return Finding("data", right, text + _unless(right, " is not the published one; farm data fetch"))


def image(path: Path | None) -> Finding:
    """The image is there, and is the one whose digest stands beside it."""
    if path is None:
        return Finding("image", True, "none; the checkout's own Python runs on the nodes")
    if why := no_image(path):
        return Finding("image", False, f"{why}; `farm image` says how to get or build it")
    beside = path.with_name(f"{path.name}.sha256")
    written, digest = written_digest(beside), file_digest(path)
    if written is None:
        return Finding("image", None, f"{path} is held against no digest; {digest_command(path)}")
    if written != digest:
        return Finding("image", False, f"{path} is not what {beside.name} says; copy or build it again")
    return Finding("image", True, f"{path}, sha256 {digest[:16]}")


def written_digest(file: Path) -> str | None:
    """What sha256sum wrote into a file; None without the file.

    Raises `PreflightError` where it holds no digest, or cannot be read.
    """
    try:
        words = file.read_text(errors="replace").split()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PreflightError(f"{file} cannot be read: {error.strerror}") from None
    if not words or not re.fullmatch("[0-9a-f]{64}", words[0]):
        command = digest_command(file.with_suffix(""))
        raise PreflightError(f"{file} holds no SHA-256: an interrupted sha256sum? {command}")
    return words[0]


def file_digest(path: Path) -> str:
    """SHA-256 of a file. Raises `PreflightError` where it cannot be read."""
    try:
        return durable.file_digest(path)
    except OSError as error:
        raise PreflightError(f"{path} cannot be read: {error.strerror}") from None


def digest_command(path: Path) -> str:
    """The command that writes an image's digest beside it."""
    return f"sha256sum {shlex.quote(str(path))} > {shlex.quote(f'{path}.sha256')}"


def _slurm(place: Place, config: Config | None) -> Iterator[Finding]:
    if shutil.which("sbatch") is None:
        yield Finding("Slurm", False, "sbatch is not here; run this on a login node")
        return
    yield _guarded("Slurm's flags", lambda: slurm_flags(place, config))
    yield _guarded("shared storage", lambda: shared_storage(place))


def slurm_flags(place: Place, config: Config | None = None) -> Finding:
    """Slurm would take the study's job, or one of the site's kind: account, partition, GPUs and walltime."""
    if config is None:
        script = doctor_script(place)
    else:
        script = render(batch_job(config, [], allocation_plan(config)))
    answer = sbatch(script, "--test-only")
    said = " ".join((answer.stderr or answer.stdout).split()).removeprefix("sbatch: ")
    if answer.returncode:
        return Finding("Slurm's flags", False, f"{said}; {_remedy(said, 'gres=, constraint= or time=')}")
    return Finding("Slurm's flags", True, said)


def shared_storage(place: Place) -> Finding:
    """What is written here is read on a compute node, and the other way round.

    Where the directory of results is not there yet, the nearest above it is tried.
    """
    name, directory = "shared storage", _existing(place.results)
    kind = file_system(directory)
    with contextlib.ExitStack() as stack:
        try:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".farm-doctor-", dir=directory)))
        except OSError as error:
            return Finding(name, False, f"not tried: {directory}: {error.strerror}; results=… where you can write")
        word = secrets.token_hex(8)
        (scratch / "here").write_text(word)
        command = ["srun", f"--immediate={SRUN_SECONDS}", "--nodes=1", "--ntasks=1", "--time=1", "--mem=100M"]
        command += placement_options(place.settings)
        if "SLURM_JOB_ID" in os.environ:
            command.append("--overlap")
        script = 'hostname; cat "$1/here" && hostname > "$1/there"'
        try:
            answer = subprocess.run(
                [*command, "sh", "-c", script, "sh", str(scratch)],
                capture_output=True,
                text=True,
                timeout=2 * SRUN_SECONDS,
                cwd="/",
            )
        except subprocess.TimeoutExpired:
            return Finding(name, None, f"{kind}; not tried: srun gave no answer within {2 * SRUN_SECONDS} s")
        said = " ".join(answer.stderr.split())
        if any(words in said for words in BUSY):
            return Finding(name, None, f"{kind}; not tried: no node was free within {SRUN_SECONDS} s")
        host, _, read = answer.stdout.partition("\n")
        if not host:  # nothing has run on a node
            return Finding(name, False, f"not tried: {said}; {_remedy(said, 'constraint= or options=')}")
        if read != word or not (scratch / "there").exists():
            text = f"{directory} is not the same on {host} ({said}); results=… on shared storage"
            return Finding(name, False, text)
        return Finding(name, True, f"{kind}; written on {socket.gethostname()}, read on {host}, and back")


def _remedy(said: str, keys: str) -> str:
    if any(words in said for words in SILENT):
        return "Slurm does not answer here; once sinfo does, the same command goes on"
    return f"slurm.account=, partition=, {keys}"


def _unless(right: bool, remedy: str) -> str:
    return "" if right else remedy
