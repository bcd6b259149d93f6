"""Pure functions from arrays to (estimate, low, high, n).

An interval over n seeds says how well the mean is known if seeds are the only source of chance; with one seed
there is none (NaN), which is shown and never replaced by zero width. Nor is there one where all values are the same,
as whole numbers can be (the epoch at which a schedule drops): their t interval, of zero width, would claim certainty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.ArrayLike
"""One-dimensional: a list, an array or a pandas Series of numbers."""
TOLERANCE = 1e-7
"""Slack of the comparison with a target, as a fraction: above float32 rounding, far below one image in 10,000."""


@dataclass(frozen=True)
class Estimate:
    """A number with its confidence interval and the count of values behind it; NaN is "not known"."""

    value: float
    low: float
    high: float
    n: int

    @property
    def has_interval(self) -> bool:
        """Whether the interval is known: of at least two values that are not all the same."""
        return math.isfinite(self.low) and math.isfinite(self.high) and not self.alike

    @property
    def alike(self) -> bool:
        """Whether several values are behind it that are all the same; `low` and `high` are then that value."""
        return self.n > 1 and self.low == self.high

    def scaled(self, factor: float) -> Estimate:
        """In another unit; `factor` is above 0."""
        return Estimate(factor * self.value, factor * self.low, factor * self.high, self.n)

    def within(self, least: float = -math.inf, most: float = math.inf) -> Estimate:
        """With the interval cut to what the quantity can be: a t interval over few values can reach beyond."""
        return Estimate(self.value, max(self.low, least), min(self.high, most), self.n) if self.has_interval else self


NOTHING = Estimate(math.nan, math.nan, math.nan, 0)
"""The estimate from no values."""


def mean(values: Numbers, confidence: float = 0.95) -> Estimate:
    """Arithmetic mean with Student's t interval, mean ± t(n−1, (1+confidence)/2) · s/√n.

    s is the sample standard deviation (n−1). Source: Student 1908, "The probable error of a mean"; it holds
    for independent normal values. Values that are all the same are `alike` and have none. The unit is that of the
    values. NaN values raise ValueError.
    """
    x = _finite(values)
    if len(x) == 0:
        return NOTHING
    centre = _mean(x)
    half = _t(len(x) - 1, confidence) * _deviation(x) / math.sqrt(len(x)) if len(x) > 1 else math.nan
    return Estimate(centre, centre - half, centre + half, len(x))


def ratio(numerator: Numbers, denominator: Numbers, confidence: float = 0.95, *, paired: bool = False) -> Estimate:
    """Ratio of geometric means, with an interval, of positive values (times, throughputs); no unit.

    The logarithms' difference of means gets a t interval, which is then exponentiated: Welch's unequal
    variances with Satterthwaite's degrees of freedom (Welch 1947), or, `paired`, the differences of equal
    positions (same seed). n is the smaller count. Raises ValueError for a value that is not positive.
    """
    a, b = np.log(_positive(numerator)), np.log(_positive(denominator))
    if len(a) == 0 or len(b) == 0:
        return NOTHING
    if paired:
        if len(a) != len(b):
            raise ValueError(f"paired values are expected, got {len(a)} and {len(b)}")
        return _exponential(mean(a - b, confidence))
    centre = _mean(a) - _mean(b)
    half = _welch_half_width(a, b, confidence)
    return _exponential(Estimate(centre, centre - half, centre + half, min(len(a), len(b))))


def difference(a: Numbers, b: Numbers, confidence: float = 0.95) -> Estimate:
    """Difference of means a − b with Welch's interval (Welch 1947), in the values' unit. n: the smaller count."""
    x, y = _finite(a), _finite(b)
    if len(x) == 0 or len(y) == 0:
        return NOTHING
    centre = _mean(x) - _mean(y)
    half = _welch_half_width(x, y, confidence)
    return Estimate(centre, centre - half, centre + half, min(len(x), len(y)))


@dataclass(frozen=True)
class Crossing:
    """Where one trial first reached a target, or that it did not in the `epochs` it had (censored)."""

    epoch: int | None
    seconds: float | None
    epochs: int


def first_reached(epochs: Sequence[int], errors: Numbers, seconds: Numbers, target_error: float) -> Crossing:
    """First epoch whose error is at most `target_error` (a fraction), and the wall-clock at its end.

    Epochs may come in any order; a NaN error reaches nothing. Later epochs above the target change nothing.
    """
    passed, error = np.asarray(epochs, dtype=np.int64), np.asarray(errors, dtype=np.float64)
    last = int(passed.max()) if len(passed) else 0
    hits = np.flatnonzero(error <= target_error + TOLERANCE)
    if not len(hits):
        return Crossing(None, None, last)
    first = hits[np.argmin(passed[hits])]
    return Crossing(int(passed[first]), float(np.asarray(seconds, dtype=np.float64)[first]), last)


@dataclass(frozen=True)
class ToTarget:
    """Crossings of several trials: means over the `reached` ones only, out of `n`.

    Where reached < n the means are too small (the slow trials are cut off at `epochs`), so a table says both.
    """

    epoch: Estimate
    seconds: Estimate
    reached: int
    n: int
    epochs: int


def to_target(crossings: Sequence[Crossing], confidence: float = 0.95) -> ToTarget:
    """Mean epoch and seconds of those that reached the target, with t intervals and the count of the others."""
    reached = [c for c in crossings if c.epoch is not None and c.seconds is not None]
    return ToTarget(
        epoch=mean([float(c.epoch or 0) for c in reached], confidence),
        seconds=mean([float(c.seconds or 0.0) for c in reached], confidence),
        reached=len(reached),
        n=len(crossings),
        epochs=max((c.epochs for c in crossings), default=0),
    )


def _exponential(e: Estimate) -> Estimate:
    return Estimate(math.exp(e.value), math.exp(e.low), math.exp(e.high), e.n)


def _finite(values: Numbers) -> npt.NDArray[np.float64]:
    x = np.asarray(values, dtype=np.float64)
    if not np.isfinite(x).all():
        raise ValueError("values must be finite; leave out what was not measured, and say so")
    return x


def _positive(values: Numbers) -> npt.NDArray[np.float64]:
    x = _finite(values)
    if (x <= 0).any():
        raise ValueError("a ratio needs positive values")
    return x


def _all_same(x: npt.NDArray[np.float64]) -> bool:
    """Asked before a mean or deviation is taken, which rounding would put beside the value and above zero."""
    return bool(x.min() == x.max())


def _mean(x: npt.NDArray[np.float64]) -> float:
    return float(x[0] if _all_same(x) else x.mean())


def _deviation(x: npt.NDArray[np.float64]) -> float:
    return 0.0 if _all_same(x) else float(x.std(ddof=1))


def _welch_half_width(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], confidence: float) -> float:
    if len(a) < 2 or len(b) < 2:
        return math.nan
    va, vb = (0.0 if _all_same(x) else float(x.var(ddof=1)) / len(x) for x in (a, b))
    if va + vb == 0:
        return 0.0
    freedom = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    return _t(freedom, confidence) * math.sqrt(va + vb)


def _t(freedom: float, confidence: float) -> float:
    # scipy.special alone: scipy.stats takes a second to import, and with one seed not even this is needed
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + confidence) / 2))
