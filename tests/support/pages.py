"""Code that stands on pages of the documentation."""

from __future__ import annotations

import re
from pathlib import Path

from commands import ROOT


def block(page: str, language: str) -> str:
    """The one block in a language on a page of docs/."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    return str(found)


def write_own_study(directory: Path) -> None:
    """The two files of docs/own-study.md, as that page tells its reader to copy them."""
    for language, name in (("yaml", "smoothing.yaml"), ("python", "smoothing.py")):
        (directory / name).write_text(block("own-study.md", language))
