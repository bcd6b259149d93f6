"""Faults that need a mount, so root: a disk that is really full, one that is really read-only."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from faults import end, kill_driver, read_only

if TYPE_CHECKING:
    from campaign import Round


def real_full_disk(round: Round) -> None:
    """a file system of 2 MB under the results, full in mid-run (root only)"""
    if os.geteuid():
        return kill_driver(round)
    round.results.mkdir(parents=True, exist_ok=True)
    ledger = round.results / "problem4"
    ledger.mkdir(exist_ok=True)
    used = sum(f.stat().st_size for f in ledger.rglob("*") if f.is_file()) // 1024
    disk = round.results.with_name(round.results.name + "-disk")
    disk.mkdir()
    size = used + round.chance.randint(100, 2000)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(disk)], check=True)
    try:
        copied = subprocess.run(["cp", "-a", f"{ledger}/.", str(disk)], capture_output=True).returncode == 0
        if copied:
            subprocess.run(["mount", "--bind", str(disk), str(ledger)], check=True)
            try:
                end(round.start())
            finally:
                subprocess.run(["umount", str(ledger)], check=True)
            subprocess.run(["cp", "-a", f"{disk}/.", str(ledger)], check=True)
            _mirror_removals(disk, ledger)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
        disk.rmdir()
    return None


def read_only_mount(round: Round) -> None:
    """the ledger's file system is mounted read-only in mid-run (root only)"""
    if os.geteuid():
        return read_only(round)
    ledger = round.results / "problem4"
    ledger.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "--bind", str(ledger), str(ledger)], check=True)
    try:
        driver = round.start()
        driver.wait(round.chance.uniform(0, round.longest))
        for _ in range(200):  # EBUSY while a file is open for writing
            if not subprocess.run(["mount", "-o", "remount,bind,ro", str(ledger)], capture_output=True).returncode:
                break
            time.sleep(0.005)
        end(driver)
    finally:
        subprocess.run(["umount", str(ledger)], check=True)
    return None


def _mirror_removals(source: Path, target: Path) -> None:
    """Remove from `target` what `source` has no more: cp only adds."""
    for path in sorted(target.rglob("*"), reverse=True):
        if not (source / path.relative_to(target)).exists():
            path.rmdir() if path.is_dir() else path.unlink()


FAULTS = {f.__name__: f for f in (real_full_disk, read_only_mount)}
