"""`farm image`: where a site's image is, whether it is the right one, and how to get or build it."""

from __future__ import annotations

from pathlib import Path

from farm.config import Place
from farm.doctor import file_digest, written_digest
from farm.provenance import farm_commit
from farm.site import image_path

OLD_GPUS = ("v100", "p100", "titanv")
"""GPUs that torch's CUDA 13 builds have no code for."""


def describe(place: Place) -> tuple[bool, list[str]]:
    """Whether the image is there and the right one, and lines for the user, with the commands that make one."""
    path = image_path(place.settings.slurm)
    if path is None:
        said = f"site {place.site} names no image (slurm.image=…): the checkout's own Python runs"
        return True, [said, *_recipe(place, None)]
    if not path.is_file():
        return False, [f"{path} is not there", *_recipe(place, path)]
    beside = path.with_name(f"{path.name}.sha256")
    written, digest = written_digest(beside), file_digest(path)
    lines = [f"{path}: {path.stat().st_size / 2**30:.1f} GiB", f"sha256 {digest}"]
    if written is None:
        return True, [*lines, f"no digest beside it; sha256sum {path} > {beside}"]
    if written == digest:
        return True, [*lines, f"as {beside.name} says"]
    return False, [*lines, f"NOT what {beside.name} says", *_recipe(place, path)]


def cuda_flavour(place: Place) -> str:
    """The CUDA build of torch for the site's GPUs."""
    return "cu126" if place.settings.slurm.gpu_type.lower().startswith(OLD_GPUS) else "cu130"


def _recipe(place: Place, path: Path | None) -> list[str]:
    target = path or Path("farm.sif")
    container, commit = place.settings.slurm.container, farm_commit().rstrip("+")
    arguments = f"--build-arg CUDA={cuda_flavour(place)} --build-arg FARM_COMMIT={commit}"
    return [
        "",
        "In the checkout, on a machine with Docker; then on a login node of the site:",
        f"  docker build -f docker/Dockerfile {arguments} -t farm:{commit} .",
        f"  docker save farm:{commit} -o farm.tar      # copy farm.tar to {target.parent}/",
        f"  {container} build {target} docker-archive:{target.parent}/farm.tar",
        "",
        f"Or in the checkout, on a machine with {container} and internet, without Docker and without root:",
        f"  {container} build --fakeroot {arguments} {target} singularity.def",
        "",
        "And write down what it is; farm doctor holds it against that:",
        f"  sha256sum {target} > {target}.sha256",
    ]
