"""`farm doctor`: each check can fail, and then says what helps."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import Finished

from farm import config as configuration
from farm import doctor
from farm.cli import main
from farm.config import load, load_place, place_of
from farm.errors import PreflightError
from farm.image import describe
from farm.slurm import node

HOPPER, VOLTA, ADA = (9, 0), (7, 0), (8, 9)
CUDA13 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]
CUDA126 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]


@pytest.mark.parametrize(
    ("capability", "kinds", "ok"),
    [(HOPPER, CUDA13, True), (ADA, CUDA13, True), (VOLTA, CUDA13, False), (VOLTA, CUDA126, True)],
)
def test_a_gpu_that_the_cuda_build_has_dropped_is_told(capability: tuple[int, int], kinds: list[str], ok: bool) -> None:
    found = doctor.gpu_finding(("a GPU",), "2.14.1+cu130", "580.1", True, [capability], kinds)
    assert (found.ok, "CUDA=cu126" in found.text) == (ok, not ok)


def test_a_driver_that_torch_cannot_use_is_told() -> None:
    found = doctor.gpu_finding(("NVIDIA H200",), "2.14.1+cu130", "470.1", False, [], [])
    assert (found.ok, "newer driver" in found.text) == (False, True)
    assert doctor.gpu_finding((), "2.14.1+cu130", "none", False, [], []).ok


@pytest.mark.parametrize(("size", "ok"), [(64 << 20, False), (8 << 30, True)])
def test_a_small_shared_memory_is_told(size: int, ok: bool) -> None:
    found = doctor.shared_memory(size)
    assert (found.ok, "--shm-size" in found.text) == (ok, not ok)


def test_a_directory_too_deep_for_sockets_is_told() -> None:
    assert doctor.socket_path("/tmp").ok
    found = doctor.socket_path("/scratch/somebody/with/a/long/name/and/more")
    assert (found.ok, "slurm.temporary=" in found.text) == (False, True)


def test_a_shared_temporary_directory_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.temporary(tmp_path).ok
    monkeypatch.setattr(doctor, "file_system", lambda path: "fuse.fuse-overlayfs")  # as /proc/mounts has it
    assert doctor.temporary(tmp_path).ok
    monkeypatch.setattr(doctor, "file_system", lambda path: "lustre")
    assert not doctor.temporary(tmp_path).ok
    assert not doctor.temporary(tmp_path / "missing").ok


def test_a_shared_directory_that_a_variable_names_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", f"{tmp_path}/x")
    monkeypatch.setattr(doctor, "file_system", lambda path: "lustre")
    told = f"{tmp_path}/x is lustre, which nodes share; TMPDIR= a directory on the node's disk"
    found = doctor.examine(load_place([f"results={tmp_path}"]), None)
    assert told in [f"{f.name.removeprefix('temporary ')} {f.text}" for f in found if not f.ok]


def test_the_temporary_directory_may_name_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", tmp_path.name)
    place = load_place([f"slurm.temporary={tmp_path.parent}/$USER", f"results={tmp_path}"])
    assert f"temporary {tmp_path}" in [f.name for f in doctor.examine(place, None)]


@pytest.mark.parametrize(
    ("variables", "lines"),
    [
        ({}, []),
        ({"TMPDIR": "{}"}, [("temporary {}", True, " GiB free"), ("socket path", True, "under {} has")]),
        ({"TMPDIR": "{}/not/there"}, [("temporary {}/not/there", True, " GiB free")]),
        ({"TMPDIR": "{}/file"}, [("temporary {}/file", False, "cannot be written; TMPDIR=/tmp")]),
        (
            {"TMPDIR": "{}", "RAY_TMPDIR": "{}/file"},
            [("temporary {}/file", False, "RAY_TMPDIR"), ("temporary {}", True, "")],
        ),
        ({"RAY_TMPDIR": "{}/" + "x" * 90}, [("socket path", False, "; RAY_TMPDIR=/tmp is short enough")]),
    ],
)
def test_where_the_variables_put_a_runs_own_files_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], lines: list[tuple[str, bool, str]]
) -> None:
    with tempfile.TemporaryDirectory(prefix="f", dir="/tmp") as short:
        (Path(short) / "file").touch()
        for key in ("TMPDIR", "RAY_TMPDIR"):
            monkeypatch.delenv(key, raising=False)
        for key, value in variables.items():
            monkeypatch.setenv(key, value.format(short))
        place = load_place([f"results={tmp_path}"])
        found = [f for f in doctor.examine(place, None) if f.name.startswith(("temporary", "socket path"))]
        for name, ok, said in lines:
            assert any((f.name, f.ok) == (name.format(short), ok) and said.format(short) in f.text for f in found), (
                found
            )
        assert [f.name for f in found][:2] == ["socket path", "temporary /tmp"]
        assert len(found) == 2 + len(variables) + bool(variables)


def test_another_users_directory_for_sockets_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farm.private.PARENT", tmp_path)
    (tmp_path / f"farm-{os.getuid()}").symlink_to(tmp_path)
    (found,) = [f for f in doctor.examine(load_place([f"results={tmp_path}"]), None) if f.name == "sockets"]
    assert (found.ok, "is no directory of yours" in found.text) == (False, True)


def test_a_relative_temporary_directory_is_told(tmp_path: Path) -> None:
    place = load_place(["slurm.temporary=relative/x", f"results={tmp_path}"])
    (found,) = [f for f in doctor.examine(place, None) if f.name == "temporary"]
    assert (found.ok, found.text) == (False, "slurm.temporary: relative/x: an absolute path is expected")


def test_the_kind_of_a_file_system_is_that_of_the_nearest_mount() -> None:
    assert doctor.file_system(Path("/proc/self")) == "proc"
    assert doctor.file_system(Path("/dev/shm")) == "tmpfs"


def test_no_free_ports_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.ports().ok
    monkeypatch.setattr(node, "_free", lambda port: False)
    assert not doctor.ports().ok


def test_a_block_with_a_taken_port_is_passed_over() -> None:
    first = node.ports(7)
    assert sorted(first.values()) == list(range(min(first.values()), min(first.values()) + len(node.PORTS)))
    with socket.socket() as taken:
        taken.bind(("", first["metrics-export-port"]))
        assert not set(node.ports(7).values()) & set(first.values())
    assert not set(node.ports(8).values()) & set(first.values())


def test_a_token_that_others_can_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    token.chmod(0o640)
    assert "chmod 600" in doctor.token().text
    token.chmod(0o600)
    assert (doctor.token().ok, "secret" in doctor.token().text) == (True, False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert not doctor.token().ok


def test_a_full_results_directory_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.results(tmp_path / "not" / "yet").ok
    assert list(tmp_path.iterdir()) == []
    with monkeypatch.context() as patched:
        patched.setattr(doctor, "_fill", _over_quota)
        found = doctor.results(tmp_path)
        assert (found.ok, "quota" in found.text) == (False, True)


@pytest.mark.parametrize(
    ("lacking", "ok", "said"),
    [
        ({}, True, "5,000,000 more files fit)"),
        ({"f_bavail": 1}, False, "0 GiB free); free some, or results=… elsewhere"),
        ({"f_favail": 17}, False, "17 files left); remove some, or results=… elsewhere"),
        ({"f_files": 0, "f_favail": 0}, True, "GiB free)"),  # btrfs: it counts no files
    ],
)
def test_no_room_for_bytes_or_files_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: dict[str, int], ok: bool, said: str
) -> None:
    room = {"f_bavail": 1 << 30, "f_frsize": 4096, "f_files": 6_000_000, "f_favail": 5_000_000} | lacking
    monkeypatch.setattr(doctor.os, "statvfs", lambda path: SimpleNamespace(**room))
    found = doctor.results(tmp_path)
    assert (found.ok, found.text.endswith(said)) == (ok, True), found.text


def test_only_a_full_place_is_a_matter_of_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    found = doctor.results(tmp_path / "file" / "results")
    assert (found.ok, f"{tmp_path}/file is a file" in found.text, "quota" in found.text) == (False, True, False)
    monkeypatch.setattr(doctor, "_fill", _stale)
    found = doctor.results(tmp_path)
    assert (found.ok, found.text.endswith("): Stale file handle; results=… elsewhere")) == (False, True)


def _stale(place: Path) -> None:
    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))


def _over_quota(place: Path) -> None:
    raise OSError(122, "Disk quota exceeded")


def test_a_missing_dataset_is_told(tmp_path: Path) -> None:
    words = [f"results={tmp_path}", f"data_root={tmp_path}"]
    found = doctor.dataset(load(["problem=4", *words]))
    assert (found.ok, "cifar10" in found.text) == (False, True)
    assert doctor.dataset(load(["problem=4", "profile=smoke", *words])).ok
    assert list(tmp_path.iterdir()) == [], "a check leaves nothing behind"


def test_the_dataset_is_looked_for_where_a_run_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration, "ROOT", tmp_path)
    found = doctor.dataset(load(["problem=4", f"results={tmp_path}"]))
    assert (found.ok, f"there is no folder {tmp_path / 'data'}:" in found.text) == (False, True)


def test_an_image_that_is_not_what_its_digest_says_is_told(tmp_path: Path) -> None:
    image = tmp_path / "farm.sif"
    assert not doctor.image(image).ok
    image.write_bytes(b"an image")
    found = doctor.image(image)
    assert (found.ok, found.word, "sha256sum" in found.text) == (None, "----", True)
    image.with_name("farm.sif.sha256").write_text(f"{hashlib.sha256(b'an image').hexdigest()}  farm.sif\n")
    assert doctor.image(image).ok
    image.write_bytes(b"another")
    assert not doctor.image(image).ok


@pytest.mark.parametrize("text", ["", "\n", "sha256sum: farm.sif: Input/output error"])
def test_a_digest_that_was_not_finished_is_told(tmp_path: Path, text: str) -> None:
    image = tmp_path / "farm.sif"
    image.write_bytes(b"an image")
    image.with_name("farm.sif.sha256").write_text(text)
    place = load_place(["site=torch", f"slurm.image={image}", f"results={tmp_path}"])
    (found,) = [f for f in doctor.examine(place, None) if f.name == "image"]
    assert (found.ok, f"sha256sum {image} > {image}.sha256" in found.text) == (False, True)
    with pytest.raises(PreflightError, match="holds no SHA-256"):
        describe(place)


def test_a_check_that_meets_an_error_does_not_end_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = tmp_path / "farm.sif"
    image.write_bytes(b"an image")
    image.with_name("farm.sif.sha256").mkdir()
    monkeypatch.setattr(doctor, "results", _stale)
    monkeypatch.setenv("PATH", str(tmp_path))
    place = load_place(["site=torch", f"slurm.image={image}", f"results={tmp_path}"])
    found = {f.name: f for f in doctor.examine(place, None)}
    assert found["results"].text == "[Errno 116] Stale file handle"
    assert found["image"].text == f"{image}.sha256 cannot be read: Is a directory"
    assert "Slurm" in found


def fake(directory: Path, name: str, body: str) -> None:
    """A command of that name, first on the path."""
    path = directory / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def test_flags_that_slurm_refuses_are_told_in_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    place = load_place(["site=torch", "slurm.image=null", "slurm.account=wrong", f"results={tmp_path}"])
    fake(tmp_path, "sbatch", 'cat > "${0%/*}/script"; echo "sbatch: error: Invalid account" >&2; exit 1')
    found = doctor.slurm_flags(place)
    assert (found.ok, "Invalid account" in found.text, "slurm.account=" in found.text) == (False, True, True)
    script = (tmp_path / "script").read_text()
    assert all(w in script for w in ("--account=wrong", "--constraint=h200", "--gres=gpu:1", "--time=08:00:00"))


def test_slurm_is_asked_about_the_job_that_the_study_would_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    config = load(
        ["problem=2", "site=torch", "slurm.account=a", "slurm.image=null", f"results={tmp_path}", "hardware=H"]
    )
    fake(tmp_path, "sbatch", 'cat > "${0%/*}/script"')
    assert doctor.slurm_flags(place_of(config), config).ok
    script = (tmp_path / "script").read_text()
    assert all(w in script for w in ("--gres=gpu:4\n", "--cpus-per-task=48\n", "--exclusive\n", "--comment="))


def test_storage_that_nodes_do_not_share_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    place = load_place(["site=torch", "slurm.account=a", "slurm.image=null", f"results={tmp_path / 'results'}"])
    fake(tmp_path, "srun", "echo gr001; echo cat: no such file >&2; exit 1")
    found = doctor.shared_storage(place)
    assert (found.ok, f"{tmp_path} is not the same on gr001 (cat: no such file)" in found.text) == (False, True)
    fake(tmp_path, "srun", 'while [ "$1" != sh ]; do shift; done; exec "$@"')
    found = doctor.shared_storage(place)
    assert (found.ok, socket.gethostname() in found.text) == (True, True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["srun"], "a check leaves nothing behind"


def test_a_slurm_that_does_not_answer_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    place = load_place(["site=torch", "slurm.image=null", "slurm.account=a", f"results={tmp_path}"])
    for command, found in (("sbatch", doctor.slurm_flags), ("srun", doctor.shared_storage)):
        fake(tmp_path, command, f"echo '{command}: error: Unable to contact slurm controller' >&2; exit 1")
        text = found(place).text
        assert ("Slurm does not answer here" in text, "storage" in text, "slurm.account=" in text) == (
            True,
            False,
            False,
        )


REFUSED = "srun: error: Unable to allocate resources: "


@pytest.mark.parametrize(
    ("srun", "ok", "said"),
    [
        (f"{REFUSED}Requested nodes are busy", None, "no node was free"),
        (f"srun: job 7 queued and waiting for resources\n{REFUSED}Connection timed out", None, "no node was free"),
        (f"{REFUSED}Immediate execution impossible, insufficient priority", None, "no node was free"),
        (f"{REFUSED}Invalid account or account/partition combination specified", False, "Invalid account"),
        (f"{REFUSED}Socket timed out on send/recv operation", False, "Socket timed out"),
        ("srun: error: Task launch failed", False, "not tried: srun: error: Task launch failed"),
    ],
)
def test_storage_that_could_not_be_tried_is_neither_ok_nor_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, srun: str, ok: bool | None, said: str
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    place = load_place(["site=torch", "slurm.account=a", "slurm.image=null", f"results={tmp_path / 'results'}"])
    fake(tmp_path, "srun", f"echo '{srun}' >&2; exit 1")
    found = doctor.shared_storage(place)
    assert (found.ok, said in found.text) == (ok, True), found.text


@pytest.mark.parametrize(("ok", "word", "code"), [(None, "----", 0), (True, "ok  ", 0), (False, "FAIL", 3)])
def test_what_was_not_tried_does_not_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ok: bool | None, word: str, code: int
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda place, config: [doctor.Finding("it", ok, "said")])
    assert main(["doctor"]) == code
    assert capsys.readouterr().out == f"{word}  it: said\n"


def test_one_failure_makes_the_exit_code_3(farm: Callable[..., Finished], tmp_path: Path) -> None:
    closed = {"RAY_AUTH_MODE": "disabled"}
    done = farm(verb="doctor", variables=closed)
    assert (done.code, "FAIL  token" in done.out, "Traceback" in done.err) == (3, True, False)
