"""The reports in a real browser: no network, no complaint, readable on a desktop, a phone and paper."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser, browser

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


def test_on_paper_every_table_fits_and_nothing_is_hidden(chromium: Browser, pages: Path, tmp_path: Path) -> None:
    wide = "[...document.querySelectorAll('table')].filter(t => t.scrollWidth > 705).map(t => t.innerText.slice(0, 60))"
    for name in PAGES:
        chromium.open(pages / name, 700)
        chromium.call("Emulation.setEmulatedMedia", media="print")
        assert chromium.evaluate(wide) == []
    assert chromium.evaluate("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
    assert chromium.pdf(tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
