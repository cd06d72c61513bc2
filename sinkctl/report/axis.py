"""Axes: which range is drawn, and where the ticks stand."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from sinkctl.result import numbers


class Tick(NamedTuple):
    """A labelled place on an axis."""

    at: float
    label: str


class Axis(NamedTuple):
    """A range of values, drawn linearly."""

    low: float
    high: float
    ticks: list[Tick]

    def share(self, value: float) -> float:
        """Where `value` lies: 0 at the low end, 1 at the high end, never outside."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))


def position_axis(end: int, most: int) -> Axis:
    """Token positions from 0, with at most about `most` ticks."""
    high = max(1, end)
    step = max(1.0, _round_step(high / most))
    return Axis(0, high, [Tick(at, numbers.short_count(at)) for at in _multiples(0, high, step)])


def memory_axis(most_bytes: int, most: int) -> Axis:
    """Bytes from 0: a flat line then looks flat."""
    high = max(1, most_bytes) * 1.08
    step = 2.0 ** math.ceil(math.log2(high / most))
    return Axis(0, high, [Tick(at, numbers.memory(at)) for at in _multiples(0, high, step)])


def perplexity_axis(nlls: Iterable[float], most: int) -> Axis:
    """A logarithmic perplexity axis: linear in NLL (nats), labelled in perplexity."""
    nlls = list(nlls) or [0.0, math.log(10)]
    low, high = min(nlls), max(nlls)
    pad = max(0.05 * (high - low), 0.1 if high - low < 0.2 else 0.0)
    return _logarithmic(max(0.0, low - pad), high + pad, most)


def number_axis(low: float, high: float, most: int, whole: bool = False) -> Axis:
    """Values on a linear scale, with at most about `most` ticks, at whole numbers alone if `whole`."""
    high = high if high > low else low + 1
    step = _round_step((high - low) / most)
    ticks = _multiples(low, high, max(1.0, step) if whole else step)
    return Axis(low, high, [Tick(at, f"{at:,.6g}") for at in ticks])


def log_axis(low: float, high: float, most: int) -> Axis:
    """A logarithmic axis of positive values; places on it are their natural logarithms."""
    pad = max(0.03 * math.log(high / low), 0.05)
    return _logarithmic(math.log(low) - pad, math.log(high) + pad, most)


def _logarithmic(low: float, high: float, most: int) -> Axis:
    ticks = _log_ticks(math.exp(low), math.exp(high), most)
    return Axis(low, high, [Tick(math.log(at), f"{at:,.10g}") for at in ticks])


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    if high < 4 * low:
        return _multiples(low, high, _round_step((high - low) / most))
    decades = [10.0**e for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    for digits in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [digit * decade for decade in decades for digit in digits if low <= digit * decade <= high]
        if len(ticks) <= most:
            return ticks
    return ticks[:: math.ceil(len(ticks) / most)]


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5, 10, … that is no smaller than `least`."""
    decade = 10.0 ** math.floor(math.log10(least))
    return next(digit * decade for digit in (1, 2, 5, 10) if digit * decade >= least * (1 - 1e-9))


def _multiples(low: float, high: float, step: float) -> list[float]:
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]
