"""Where a result comes from: commit, sources, versions, GPU. Imports neither torch nor Ray."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from farm.config import ROOT

IMAGE_VARIABLES = ("FARM_IMAGE", "APPTAINER_CONTAINER", "SINGULARITY_CONTAINER")

GPU_FILES = ("/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/dxg")
"""Of the drivers of Nvidia, Jetson and WSL: one is there where CUDA has a GPU. An image may lack nvidia-smi."""


@functools.cache
def farm_commit() -> str:
    """Git commit of the farm, with "+" where the tree was changed; $FARM_COMMIT where there is no git tree."""
    head = _git("rev-parse", "HEAD")
    if head is None:
        return os.environ.get("FARM_COMMIT", "unknown")
    return head[:12] + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")


def source_digest(module: str) -> str:
    """SHA-256 (16 digits) of what decides a trial's results, as it was when this process first asked.

    That is its module, and what this imports, wherever the statement stands, of `trials` and of the files beside it.
    """
    return _first_seen(module)[0]


def source_digests(module: str) -> list[str]:
    """`source_digest`, and that of now where the files have changed since: code of both may have run here."""
    then, stamps = _first_seen(module)
    if all(_stamp(path) == stamp for path, stamp in stamps.items()):
        return [then]
    return list(dict.fromkeys([then, _digest(_sources(module))]))


@functools.cache
def _first_seen(module: str) -> tuple[str, dict[Path, tuple[int, int] | None]]:
    files = _sources(module)
    stamps = {path: _stamp(path) for path in files.values()}
    return _digest(files), stamps


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _digest(files: Mapping[str, Path]) -> str:
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        digest.update(name.encode() + b"\0" + _content(path) + b"\0")
    return digest.hexdigest()[:16]


def _content(path: Path) -> bytes:
    """A file's bytes; a text in their place where it cannot be read, which no trial is to fail by."""
    try:
        return path.read_bytes()
    except OSError as error:
        return f"# {error.strerror}".encode()


def _sources(module: str) -> dict[str, Path]:
    """Files of a trial module and, followed through import statements, of `trials` and of the directory it is in."""
    specification = _found(module)
    if specification is None or specification.origin is None:
        return {}
    origin = Path(specification.origin)
    home = origin.parents[module.count(".") + (origin.name == "__init__.py")]
    found: dict[str, Path] = {}
    waiting, seen = set(_with_packages(module)), set[str]()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        path = _file(name, home, module)
        if path is not None:
            found[name] = path
            waiting.update(set(_imports(name, path)) - seen)
    return found


def _file(name: str, home: Path, module: str) -> Path | None:
    """The file of a module of `trials`, or of one in `home` beside the trial module; None for all others."""
    package = name.partition(".")[0]
    ours = module.partition(".")[0]
    if name == "trials" or not (package in ("trials", ours) or (ours != "trials" and _is_beside(package, home))):
        return None
    base = (ROOT if package == "trials" else home).joinpath(*name.split("."))
    return next((path for path in (base / "__init__.py", base.with_suffix(".py")) if os.path.isfile(path)), None)


def _is_beside(package: str, home: Path) -> bool:
    """Whether `import package` takes what lies in `home`, and that is not the farm itself nor an installed library."""
    if package in ("farm", "analysis") or home.name in ("site-packages", "dist-packages"):
        return False
    specification = _found(package)
    places = [] if specification is None else [specification.origin, *(specification.submodule_search_locations or ())]
    return any(p and Path(p).parent == home for p in places) and not any(home.glob(f"{package}-*.dist-info"))


def _found(module: str) -> importlib.machinery.ModuleSpec | None:
    try:
        return importlib.util.find_spec(module)
    except (ImportError, ValueError):  # ValueError: a module without a specification, as __main__
        return None


def _imports(name: str, path: Path) -> Iterator[str]:
    """Names that a module's import statements may mean, packages around them included."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    try:
        nodes = list(ast.walk(ast.parse(_content(path))))
    except (SyntaxError, ValueError):  # who imports it says so
        return
    for node in nodes:
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join(filter(None, [*above, node.module]))
            names = [f"{base}.{a.name}" for a in node.names]
        for one in names:
            yield from _with_packages(one)


def _with_packages(name: str) -> Iterator[str]:
    """ "a", "a.b" and "a.b.c" for the last of them."""
    parts = name.split(".")
    return (".".join(parts[:n]) for n in range(1, len(parts) + 1))


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


def without_gpu() -> bool:
    """Whether CUDA surely finds no GPU on this machine: it has none, or CUDA_VISIBLE_DEVICES hides all of them."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0].strip()
    return first in ("", "-1") or not (gpu_models() or any(map(os.path.exists, GPU_FILES)))


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
