"""Code that stands on pages of the documentation."""

from __future__ import annotations

import re

from commands import ROOT


def block(page: str, language: str) -> str:
    """The one block in a language on a page of docs/."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    return str(found)
