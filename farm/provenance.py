"""Where a result comes from: commit, sources, versions, GPU. Imports neither torch nor Ray."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
from pathlib import Path

from farm.config import ROOT

IMAGE_VARIABLES = ("FARM_IMAGE", "APPTAINER_CONTAINER", "SINGULARITY_CONTAINER")


@functools.cache
def farm_commit() -> str:
    """Git commit of the farm, with "+" where the tree was changed; $FARM_COMMIT where there is no git tree."""
    head = _git("rev-parse", "HEAD")
    if head is None:
        return os.environ.get("FARM_COMMIT", "unknown")
    return head[:12] + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")


@functools.cache
def source_digest(module: str) -> str:
    """SHA-256 (16 digits) of what decides a trial's results: its module and all that imports of `trials`."""
    digest = hashlib.sha256()
    for name, path in sorted(_sources(module).items()):
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _sources(module: str) -> dict[str, Path]:
    """Files of a trial module and, followed through their import statements, of the modules of `trials` it uses."""
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        specification = importlib.util.find_spec(name)
        if name in found or specification is None or specification.origin is None:
            continue
        found[name] = Path(specification.origin)
        for node in ast.walk(ast.parse(found[name].read_text())):
            if isinstance(node, ast.Import):
                waiting += [a.name for a in node.names if a.name.startswith("trials.")]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "trials":
                waiting += [f"trials.{a.name}" for a in node.names] if node.module == "trials" else [str(node.module)]
    return found


def versions() -> dict[str, str]:
    """Versions that a result depends on, read from package metadata without importing anything."""
    return {
        "torch_version": _version("torch"),
        "python_version": platform.python_version(),
        "image": next((os.environ[v] for v in IMAGE_VARIABLES if os.environ.get(v)), ""),
    }


@functools.cache
def gpu_models() -> tuple[str, ...]:
    """Models of this machine's GPUs by nvidia-smi, e.g. ("NVIDIA H200",); empty where there is none.

    Honours CUDA_VISIBLE_DEVICES as a list of numbers, as torch and Ray do.
    """
    if shutil.which("nvidia-smi") is None:
        return ()
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (subprocess.SubprocessError, OSError):
        return ()
    names = [line.strip() for line in answer.stdout.splitlines() if line.strip()]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return tuple(names)
    numbers = [v.strip() for v in visible.split(",")]
    return tuple(names[int(v)] for v in numbers if v.isdigit() and int(v) < len(names))


def _git(*arguments: str) -> str | None:
    if not (ROOT / ".git").exists():
        return None
    try:
        command = ["git", "--no-optional-locks", "-C", str(ROOT), *arguments]  # a kill would leave index.lock behind
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"
