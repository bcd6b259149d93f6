"""The reports in a real browser: no network, no complaint, readable on a desktop, a phone and paper."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser, browser
from data_parallel import Made

from analysis import report

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: apt-get install chromium")
DESKTOP, PHONE = 1200, 390
PAGES = [*(f"problem{n}/report/index.html" for n in "1234"), "smoothing/report/index.html", "index.html"]
SMALLEST_TYPE = """
Math.min(...[...document.querySelectorAll('p, li, td, th, figcaption, .origin, h1, h2, h3')]
  .filter(e => e.innerText.trim()).map(e => parseFloat(getComputedStyle(e).fontSize)))"""
OVERFLOWING = """
[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, math') &&
  e.getBoundingClientRect().right > document.documentElement.clientWidth + 1).map(e => e.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def pages(smoke: Path) -> Path:
    report.write_index(smoke)
    return smoke


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_without_network_or_complaint(
    name: str, width: int, pages: Path, chromium: Browser, tmp_path: Path
) -> None:
    visit = chromium.open(pages / name, width)
    assert [r for r in visit.requests if not r.startswith("data:")] == [(pages / name).as_uri()]
    assert visit.complaints == []
    assert chromium.evaluate("[...document.images].every(i => i.naturalWidth > 0 && i.alt.length > 10)")
    assert chromium.evaluate(OVERFLOWING) == []
    assert chromium.evaluate("document.documentElement.scrollWidth") == width
    assert chromium.evaluate(SMALLEST_TYPE) >= 11.5
    assert chromium.screenshot(tmp_path / "page.png").stat().st_size > 10_000


def test_subscripts_stand_below_and_superscripts_above(chromium: Browser, pages: Path) -> None:
    chromium.open(pages / "problem1/report/index.html", DESKTOP)
    assert chromium.evaluate("document.fonts.check('16px \"Report math\"')")
    below, above = (
        chromium.evaluate(
            f"[...document.querySelectorAll('{tag}')].every(e => {{"
            "const [base, script] = [...e.children].map(c => c.getBoundingClientRect());"
            f"return script.bottom {sign} base.bottom - {slack} * base.height }})"
        )
        for tag, sign, slack in (("msub", ">", 0), ("msup", "<", 0.2))
    )
    assert (below, above) == (True, True)


WIDE = "[...document.querySelectorAll('table')].filter(t => t.scrollWidth > 705).map(t => t.innerText.slice(0, 60))"


def test_on_paper_every_table_fits_and_nothing_is_hidden(chromium: Browser, pages: Path, tmp_path: Path) -> None:
    for name in PAGES:
        chromium.open(pages / name, 700)
        chromium.call("Emulation.setEmulatedMedia", media="print")
        assert chromium.evaluate(WIDE) == []
    assert chromium.evaluate("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
    assert chromium.pdf(tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Problem 2's page with all that the sheet's ladder gives on four GPUs."""
    study = Made()
    kinds = ("communication", "broadcast", "reduce", "all_reduce", "peer_copy", "exposed", "waiting")
    for mode in ("dataparallel", "ddp"):
        for scaling, gpus in (("weak", 1), ("weak", 2), ("weak", 4), ("strong", 2), ("strong", 4)):
            known = study.trial(gpus, mode, scaling)
            for batch in (32, 128, 512, 2048, 8192):
                study.epochs(known, batch, **{f"profiled_{kind}_seconds": 0.4567 for kind in kinds if gpus > 1})
    return report.write_report(study.write(tmp_path_factory.mktemp("ladder")), "2").html


def test_a_whole_ladder_fits_on_paper(chromium: Browser, ladder: Path) -> None:
    visible = (
        "[...document.querySelectorAll('#table-strong table')].filter(t => t.offsetWidth).map(t => t.rows[0].cells"
    )
    chromium.open(ladder, 700)
    assert chromium.evaluate(f"{visible}.length)") == [16]
    chromium.call("Emulation.setEmulatedMedia", media="print")
    assert chromium.evaluate(WIDE) == []
    assert chromium.evaluate(f"{visible}.length)") == [7, 7, 4]
    assert chromium.evaluate(f"{visible}[1].innerText)") == [f"Batch {b:,} in all: Time (s)" for b in (32, 512, 8192)]


def test_a_columns_heading_stands_over_its_numbers(chromium: Browser, ladder: Path) -> None:
    chromium.open(ladder, DESKTOP)
    crooked = (
        "[...document.querySelectorAll('.table table')].filter(t => [...t.rows[0].cells].some((c, i) => "
        "getComputedStyle(c).textAlign != getComputedStyle(t.rows[1].cells[i]).textAlign)).length"
    )
    assert chromium.evaluate(crooked) == 0
