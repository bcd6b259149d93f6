"""The font of a page's equations, cut down to the signs they use, so that they look alike on every machine.

Without a mathematical font, as on most servers and some phones, browsers set sub- and superscripts badly. This is
DejaVu Serif, which comes with matplotlib and may be embedded and changed (its licence lies beside it there). Its own
MATH table leaves the shifts of scripts at zero; the suggestions of the OpenType specification are put in.
"""

from __future__ import annotations

import base64
import functools
import html
import io
import re
import unicodedata
from pathlib import Path

import matplotlib

FILE = "fonts/ttf/DejaVuSerif.ttf"
X_HEIGHT, RULE = 0.519, 0.044
"""Of DejaVu Serif, in em: the height of an x, and the thickness of a fraction's rule."""
SHIFTS = {
    "SubscriptShiftDown": 0.16,
    "SubscriptTopMax": 0.8 * X_HEIGHT,
    "SubscriptBaselineDropMin": 0.1,
    "SuperscriptShiftUp": 0.40,
    "SuperscriptShiftUpCramped": 0.33,
    "SuperscriptBottomMin": X_HEIGHT / 4,
    "SuperscriptBaselineDropMax": 0.2,
    "SubSuperscriptGapMin": 4 * RULE,
    "SuperscriptBottomMaxWithSubscript": 0.8 * X_HEIGHT,
    "SpaceAfterScript": 0.04,
    "FractionNumeratorGapMin": 2 * RULE,
    "FractionDenominatorGapMin": 2 * RULE,
    "FractionNumDisplayStyleGapMin": 3 * RULE,
    "FractionDenomDisplayStyleGapMin": 3 * RULE,
    "RadicalVerticalGap": 1.5 * RULE,
    "RadicalExtraAscender": RULE,
}
"""Constants of the MATH table, in em; heights and gaps as the OpenType specification (MathConstants) suggests."""
ITALIC = {
    "A": 0x1D434,
    "a": 0x1D44E,
    "\N{GREEK SMALL LETTER ALPHA}": 0x1D6FC,
    "\N{GREEK CAPITAL LETTER ALPHA}": 0x1D6E2,
}
"""Where the slanted forms of a letter and its 23 to 25 followers begin: browsers put them in for single letters."""
RADICAL = "\N{SQUARE ROOT}"
PLANCK = "\N{PLANCK CONSTANT}"
"""Unicode's slanted h."""


def signs(page: str) -> frozenset[str]:
    """The characters of all equations on a page, with the slanted forms of letters."""
    texts = re.findall(r"<math\b.*?</math>", page, re.DOTALL)
    plain = set(html.unescape(re.sub(r"<[^>]*>|\s", "", "".join(texts))))
    slanted = {chr(start + ord(c) - ord(first)) for c in plain for first, start in ITALIC.items() if _follows(c, first)}
    roots = {RADICAL} if "<msqrt" in page or "<mroot" in page else set()  # drawn by the browser, in no text
    return frozenset(plain | slanted | roots | ({PLANCK} if "h" in plain else set()))


def _follows(character: str, first: str) -> bool:
    return 0 <= ord(character) - ord(first) < 26 and unicodedata.category(character) == unicodedata.category(first)


@functools.lru_cache(maxsize=8)
def data_uri(characters: frozenset[str]) -> str:
    """A WOFF of these characters as a data URI, the same bytes for the same characters; "" for none."""
    if not characters:
        return ""
    from fontTools.subset import Options, Subsetter
    from fontTools.ttLib import TTFont

    font = TTFont(Path(matplotlib.get_data_path()) / FILE, recalcTimestamp=False)
    options = Options(
        layout_features=["ssty", "mark", "mkmk"], drop_tables=["GSUB", "GPOS", "kern", "FFTM"], hinting=False
    )
    subsetter = Subsetter(options)
    subsetter.populate(unicodes=[ord(c) for c in characters])
    subsetter.subset(font)
    constants = font["MATH"].table.MathConstants
    for name, em in SHIFTS.items():
        getattr(constants, name).Value = round(em * font["head"].unitsPerEm)
    font.flavor = "woff"
    sink = io.BytesIO()
    font.save(sink)
    return f"data:font/woff;base64,{base64.b64encode(sink.getvalue()).decode()}"
