"""`farm image`: where a site's image is, whether it is the right one, and how to get or build it."""

from __future__ import annotations

import re
from pathlib import Path
from shlex import quote

from farm.config import Place
from farm.doctor import digest_command, file_digest, written_digest
from farm.provenance import farm_commit
from farm.site import image_path, no_image

OLD_GPUS = ("v100", "p100", "titanv")
"""GPUs that torch's CUDA 13 builds have no code for."""


def describe(place: Place) -> tuple[bool, list[str]]:
    """Whether the image is there and the right one, and lines for the user, with the commands that make one."""
    path = image_path(place.settings.slurm)
    if path is None:
        said = f"site {place.site} names no image (slurm.image=…): the checkout's own Python runs"
        return True, [said, *_recipe(place, None)]
    if why := no_image(path):
        return False, [why, *_recipe(place, path / "farm.sif" if path.is_dir() else path)]
    beside = path.with_name(f"{path.name}.sha256")
    written, digest = written_digest(beside), file_digest(path)
    lines = [f"{path}: {path.stat().st_size / 2**30:.1f} GiB", f"sha256 {digest}"]
    if written is None:
        return True, [*lines, f"no digest beside it; {digest_command(path)}"]
    if written == digest:
        return True, [*lines, f"as {beside.name} says"]
    return False, [*lines, f"NOT what {beside.name} says", *_recipe(place, path)]


def cuda_flavour(place: Place) -> str:
    """The CUDA build of torch for all of the site's GPUs, which may be several: h200|v100."""
    kinds = re.split(r"\W+", place.settings.slurm.gpu_type.lower())
    return "cu126" if any(kind.startswith(OLD_GPUS) for kind in kinds) else "cu130"


def _recipe(place: Place, path: Path | None) -> list[str]:
    target = path or Path("farm.sif")
    sif, tar = quote(str(target)), target.parent / "farm.tar"
    container, commit = place.settings.slurm.container, farm_commit().rstrip("+")
    arguments = f"--build-arg CUDA={cuda_flavour(place)} --build-arg FARM_COMMIT={commit}"
    return [
        "",
        "In the checkout, on a machine with Docker; then on a login node of the site:",
        f"  docker build -f docker/Dockerfile {arguments} -t farm:{commit} .",
        f"  docker save farm:{commit} -o farm.tar      # copy it to {quote(str(tar))}",
        f"  {container} build {sif} {quote(f'docker-archive:{tar}')}",
        "",
        f"Or in the checkout, on a machine with {container} and internet, without Docker and without root:",
        f"  {container} build --fakeroot {arguments} {sif} singularity.def",
        "",
        "And write down what it is; farm doctor holds it against that:",
        f"  {digest_command(target)}",
    ]
