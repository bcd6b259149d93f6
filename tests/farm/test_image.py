"""The two recipes are one image: the same base, lock, paths and Python; and `farm image` says how to make it."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import ROOT, Finished

from farm.config import load_place
from farm.image import cuda_flavour, describe
from farm.site import Slurm

DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
DEFINITION = (ROOT / "singularity.def").read_text()
INSTALL = (ROOT / "docker" / "install.sh").read_text()


def section(name: str) -> str:
    """One section of the definition file."""
    found = re.search(rf"^%{name}\n(.*?)(?=^%|\Z)", DEFINITION, re.M | re.S)
    assert found is not None
    return found[1]


def test_both_start_from_the_same_base_and_cuda() -> None:
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", DOCKERFILE, re.M))
    others = dict(line.strip().split("=", 1) for line in section("arguments").splitlines() if line.strip())
    assert arguments["BASE"] == others.pop("FROM")
    assert (others.pop("BOOTSTRAP"), others) == ("docker", {k: v for k, v in arguments.items() if k != "BASE"})
    assert re.fullmatch(r"[\w./-]+:[\d.]+(-\w+)?", arguments["BASE"]), "the base is pinned"


def test_both_hold_the_same_files_at_the_same_paths() -> None:
    copied = re.findall(r"^COPY (\S+) (\S+)$", DOCKERFILE, re.M)
    files = [line.split() for line in section("files").splitlines() if line.strip()]
    named = [(a, b + a if b.endswith("/") else b) for a, b in files]
    assert sorted(copied) == sorted(named)
    assert all((ROOT / source).exists() for source, _ in copied)
    allowed = [w[1:] for w in (ROOT / ".dockerignore").read_text().split("\n") if w.startswith("!")]
    assert sorted(allowed) == sorted(source for source, _ in copied)


def test_both_run_the_same_installation_and_nothing_else() -> None:
    runs = re.findall(r"sh (/opt/farm/docker/install\.sh \w+)", DOCKERFILE)
    posts = [" ".join(line.split()[1:3]) for line in section("post").splitlines() if line.strip()]
    assert runs == posts
    assert "pip" not in DOCKERFILE + section("post")
    assert "requirements.lock" in INSTALL


def test_both_have_the_same_environment() -> None:
    path = re.search(r"PATH=(\S+)", DOCKERFILE)
    assert path is not None
    assert f"PATH={path[1]}\n" in section("environment")
    for word in ("LANG=C.UTF-8", "PYTHONNOUSERSITE=1"):
        assert word in DOCKERFILE
        assert word in section("environment")


def test_the_batch_script_looks_where_the_image_has_things() -> None:
    assert (Slurm().code, Slurm().python) == ("/opt/farm", "/opt/venv/bin/python")
    assert "python3 -m venv /opt/venv" in INSTALL
    assert "--editable /opt/farm" in INSTALL


def test_the_lock_is_for_the_python_of_the_image() -> None:
    """Debian 12 has Python 3.11; the lock's wheels for it exist, which pyproject.toml promises."""
    assert ":12." in DOCKERFILE.split("FROM")[0]
    assert 'requires-python = ">=3.11"' in (ROOT / "pyproject.toml").read_text()
    lock = (ROOT / "requirements.lock").read_text()
    assert all(re.search(rf"^{p}==[\d.]+$", lock, re.M) for p in ("torch", "torchvision", "ray"))


def test_the_image_runs_as_nobody_in_particular_and_examines_itself() -> None:
    assert re.search(r"^USER farm$", DOCKERFILE, re.M)
    assert re.search(r'^HEALTHCHECK .*CMD \["farm", "doctor"\]$', DOCKERFILE, re.M)


def test_another_cuda_build_has_the_same_versions(tmp_path: Path) -> None:
    filters = re.search(r"grep -vE '[^']+' \"\$lock\" \| sed -E \"[^\"]+\"", INSTALL)
    assert filters is not None
    script = f"lock={ROOT / 'requirements.lock'} cuda=cu126; {filters[0]}"
    lines = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()
    lock = (ROOT / "requirements.lock").read_text().splitlines()
    torch = [line for line in lock if line.startswith("torch")]
    assert [line for line in lines if line.startswith("torch")] == [f"{line}+cu126" for line in torch]
    assert not [line for line in lines if line.startswith("nvidia")]
    assert len(lines) > len(lock) - 30


def test_the_installation_is_a_script_that_sh_can_read() -> None:
    assert subprocess.run(["sh", "-n", str(ROOT / "docker" / "install.sh")], capture_output=True).stderr == b""


@pytest.mark.parametrize(
    ("kind", "flavour"), [("v100", "cu126"), ("rtx8000", "cu130"), ("h200|l40s", "cu130"), ("h200|v100", "cu126")]
)
def test_a_v100_gets_a_build_that_knows_it(kind: str, flavour: str) -> None:
    place = load_place(["site=greene", f"slurm.gpu_type='{kind}'", "results=/r", "slurm.image=/i.sif"])
    assert cuda_flavour(place) == flavour


def test_the_way_to_an_image_that_is_not_there_is_said(farm: Callable[..., Finished]) -> None:
    done = farm("site=greene", verb="image", variables={"USER": "me"})
    assert done.code == 3
    assert "/scratch/me/farm/farm.sif is not there" in done.out
    assert "docker build -f docker/Dockerfile --build-arg CUDA=cu130" in done.out
    assert "singularity build --fakeroot" in done.out


def test_the_way_to_an_image_can_be_pasted(tmp_path: Path) -> None:
    image = tmp_path / "my image's.sif"
    place = load_place(["site=greene", "results=/r", f"slurm.image={image}"])
    commands = [shlex.split(line, comments=True) for line in describe(place)[1] if line.startswith("  ")]
    docker, sha256sum = commands[2], commands[-1]
    assert docker == ["singularity", "build", str(image), f"docker-archive:{tmp_path}/farm.tar"]
    assert sha256sum == ["sha256sum", str(image), ">", f"{image}.sha256"]
    image.write_bytes(b"an image")
    assert shlex.split(describe(place)[1][-1].partition("; ")[2]) == sha256sum


def test_a_directory_is_no_image(tmp_path: Path) -> None:
    place = load_place(["site=greene", "results=/r", f"slurm.image={tmp_path}"])
    right, lines = describe(place)
    assert (right, lines[0]) == (False, f"{tmp_path} is a directory, and no .sif")
    assert f"build {tmp_path}/farm.sif docker-archive:" in "".join(lines), "and not in its place"


def test_a_digest_that_cannot_be_read_is_told(farm: Callable[..., Finished], tmp_path: Path) -> None:
    image = tmp_path / "farm.sif"
    image.write_bytes(b"an image")
    image.with_name("farm.sif.sha256").mkdir()
    done = farm("site=greene", f"slurm.image={image}", verb="image", variables={"USER": "me"})
    assert (done.code, done.err) == (3, f"farm: {image}.sha256 cannot be read: Is a directory\n")


def test_an_image_is_held_against_its_digest(tmp_path: Path) -> None:
    image = tmp_path / "farm.sif"
    image.write_bytes(b"an image")
    place = load_place(["site=greene", "results=/r", f"slurm.image={image}"])
    assert "no digest beside it" in describe(place)[1][-1]
    digest = describe(place)[1][1].split()[1]
    image.with_name("farm.sif.sha256").write_text(f"{digest}  farm.sif\n")
    assert describe(place)[1][-1] == "as farm.sif.sha256 says"
    image.write_bytes(b"another")
    right, lines = describe(place)
    assert (right, any("NOT what" in line for line in lines)) == (False, True)
