"""The reports' tables and figures in a paper: a real LaTeX compiles them all."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not shutil.which("pdflatex"), reason="no LaTeX here: apt-get install texlive-latex-base texlive-latex-recommended"
)
PAPER = r"""\documentclass{article}
\usepackage{booktabs}
\usepackage{graphicx}
\begin{document}
%s
\end{document}
"""


def test_a_paper_with_every_table_and_figure_compiles(smoke: Path, tmp_path: Path) -> None:
    tables, figures = sorted(smoke.rglob("tables/*.tex")), sorted(smoke.rglob("figures/*.pdf"))
    assert (len(tables) > 20, len(figures) > 8) == (True, True)
    body = [rf"\noindent\input{{{path}}}\clearpage" for path in tables]
    body += [rf"\noindent\includegraphics[width=\linewidth]{{{path}}}\clearpage" for path in figures]
    (tmp_path / "paper.tex").write_text(PAPER % "\n".join(body))
    line = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    pages = len(tables) + len(figures)
    assert f"paper.pdf ({pages} pages" in done.stdout
    assert "Missing character" not in (tmp_path / "paper.log").read_text(errors="replace")
