"""How a benchmark is said, in its verdict and in reports alike."""

import math
from collections.abc import Iterable

from sinkctl.result.bench import OURS, Row


def worse(percent: float, low: float | None = None, high: float | None = None) -> str:
    """worse by 14.2 % (12.9 … 15.6), better by 3.0 %, the same; a positive `percent` is worse."""
    exact = low is None or high is None or low == high
    if math.isnan(percent):
        return "–"
    if exact and abs(percent) < 0.005:
        return "the same"
    sign, word = (-1, "better") if percent < 0 else (1, "worse")
    said = f"{word} by {points(sign * percent)} %"
    if exact:
        return said
    ends = sorted((sign * low, sign * high))
    return f"{said} ({points(ends[0])} … {points(ends[1])})"


def points(percent: float) -> str:
    """14.2, below one percent 0.25."""
    if math.isinf(percent):
        return "∞" if percent > 0 else "−∞"
    rounded = round(percent, 1 if abs(percent) >= 1 else 2) or 0.0  # never −0
    return f"{rounded:,.{1 if abs(percent) >= 1 else 2}f}".replace("-", "−")


def times(ratio: float) -> str:
    """22.4×, 1,750×."""
    return f"{ratio:,.0f}×" if ratio >= 99.95 else f"{ratio:#.3g}×"


def ours_beside(peer: Row, rows: Iterable[Row]) -> Row | None:
    """Our row of the same case, metric and size."""
    return next((row for row in rows if row.way == OURS and _place(row) == _place(peer)), None)


def advantage(ours: Row, peer: Row) -> float | None:
    """How many times as fast as `peer` ours is, or as little memory it takes; None of other numbers and other work."""
    timed = ours.low is not None or ours.unit == "bytes"
    if not timed or not (ours.value and peer.value) or "other" in peer.detail:
        return None
    return ours.value / peer.value if ours.better == "higher" else peer.value / ours.value


def _place(row: Row) -> tuple:
    return row.case, row.metric, {name: value for name, value in row.size.items() if name != "way"}
