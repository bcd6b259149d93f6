"""Numbers in running text: each with its unit, its interval and n, and no line break before a unit."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

from analysis.stats import Estimate

SPACE = "\N{NO-BREAK SPACE}"


def written(value: float, form: str) -> str:
    """A number by one of `format`'s formats, with a minus sign for the hyphen; exponents (1e-10) stay as in code."""
    text = format(value, form)
    return f"\N{MINUS SIGN}{text[1:]}" if text.startswith("-") else text


def percent(e: Estimate, digits: int = 2) -> str:
    """ "5.81 % (5.61 to 6.02, n = 3)" of a fraction; without the interval for n = 1."""
    return _with_interval(e, lambda v: written(100 * v, f".{digits}f"), f"{SPACE}%")


def points(e: Estimate) -> str:
    """ "1.00 (0.52 to 1.48, n = 3) percentage points" of a difference of fractions."""
    return _with_interval(e, lambda v: written(100 * v, ".2f"), "") + " percentage points"


def seconds(e: Estimate) -> str:
    """ "652 s (647 to 657, n = 3)"."""
    return _with_interval(e, lambda v: written(v, ",.0f" if abs(e.value) >= 100 else ",.1f"), f"{SPACE}s")


def times(e: Estimate) -> str:
    """ "2.15 (2.14 to 2.16, n = 3) times"."""
    return _with_interval(e, lambda v: written(v, ".2f"), "") + " times"


def unlike_one(e: Estimate) -> str:
    """What to say behind a ratio that may be 1: nothing where its interval leaves 1 out, or where there is none."""
    return ", an interval that holds 1, so chance is not excluded" if e.has_interval and e.low <= 1 <= e.high else ""


def loss(e: Estimate) -> str:
    """ "0.0213 (0.0201 to 0.0225, n = 3)", three digits."""
    return _with_interval(e, lambda v: written(v, "#.3g"), "")


def number(e: Estimate) -> str:
    """ "84.0 (81.5 to 86.5, n = 3)"; a whole number without an interval has no decimals."""
    whole = float(e.value).is_integer() and not e.has_interval
    return _with_interval(e, lambda v: written(v, ",.0f" if whole else ",.1f"), "")


def all_alike(e: Estimate) -> str:
    """ "all 3": what stands in place of an interval where the n values are all the same."""
    return f"all{SPACE}{e.n}"


def listing(items: Sequence[object]) -> str:
    """ "a, b and c"."""
    texts = [str(i) for i in items]
    return " and ".join([", ".join(texts[:-1]), texts[-1]]) if len(texts) > 1 else "".join(texts)


def counted(number: int | str, noun: str, plural: str = "") -> str:
    """ "1 epoch", "1,563 epochs"; a number that is text already ("100", "20, 100") stays as it is."""
    text = number if isinstance(number, str) else f"{number:,}"
    return f"{text} {noun if text == '1' else plural or f'{noun}s'}"


def numbered(noun: str, numbers: Sequence[int]) -> str:
    """ "epoch 82", "epochs 42, 62 and 83"."""
    return f"{noun}{'' if len(numbers) == 1 else 's'} {listing(numbers)}"


def sentence(text: str) -> str:
    """Text with a capital at its start and a full stop at its end; empty where it is empty."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}." if text else ""


def escape(text: str) -> str:
    """Text from outside (names, error messages) with Markdown's characters made plain, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>#|$!~])", r"\\\1", " ".join(text.split()))


def _with_interval(e: Estimate, form: Callable[[float], str], unit: str) -> str:
    if not math.isfinite(e.value):
        return "not measured"
    if e.alike:
        return f"{form(e.value)}{unit} ({all_alike(e)})"
    interval = f"{form(e.low)} to {form(e.high)}, " if e.has_interval else ""
    return f"{form(e.value)}{unit} ({interval}n = {e.n})".replace(" = ", f"{SPACE}={SPACE}")


FILTERS: Mapping[str, Callable[..., str]] = {
    "percent": percent,
    "points": points,
    "seconds": seconds,
    "times": times,
    "unlike_one": unlike_one,
    "loss": loss,
    "number": number,
    "listing": listing,
    "counted": counted,
    "sentence": sentence,
    "escape_markdown": escape,
    "at_epochs": lambda epochs: f"at {numbered('epoch', epochs)}",
}
