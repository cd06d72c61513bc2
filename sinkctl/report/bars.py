"""Horizontal bars from 0, each with its value at its end: a table whose lengths a page draws."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from sinkctl.result.numbers import known, perplexity


class Bar(NamedTuple):
    """One row: its length in percent of the longest (none without a value), and what it says."""

    label: str
    share: float
    said: str
    colour: int


class Bars(NamedTuple):
    title: str
    bars: list[Bar]


def bars(
    title: str, rows: Iterable[tuple[str, float | None, int]], say: Callable[[float | None], str] = perplexity
) -> Bars | None:
    """Bars of (label, value, colour); None without rows."""
    rows = list(rows)
    most = max((value for _, value, _ in rows if known(value)), default=0.0) or 1.0
    drawn = [
        Bar(label, 100 * value / most if known(value) else 0.0, say(value), colour) for label, value, colour in rows
    ]
    return Bars(title, drawn) if drawn else None
