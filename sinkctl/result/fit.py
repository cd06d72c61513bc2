"""How time and memory grow with size: slopes of log cost over log size."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from sinkctl.result.bench import Fit, Row
from sinkctl.result.interval import medians, middle

# metric → what its fit is called, and the sample as a cost: seconds, or bytes in the row's own unit.
COSTS = {
    "tokens_per_s": ("seconds", lambda rate: 1 / rate),
    "ms_per_token": ("seconds", lambda ms: ms / 1e3),
    "ms": ("seconds", lambda ms: ms / 1e3),
    "peak_memory": ("bytes", lambda size: size),
}
A_TOKEN = ("tokens_per_s", "ms_per_token")


def fits(rows: list[Row], seed: int) -> list[Fit]:
    """The exponent of each case, way and metric whose sizes, three or more, differ in exactly one number.

    Least squares through the medians; its 95 % interval draws the samples of every size again. What a rate or latency
    a token becomes is seconds for all tokens where the number of tokens grows (1: linear), seconds a token where
    anything else does (window: 0 is constant). A call in ms is taken as it is, and of a peak of
    memory what was held before (the weights, the libraries) is taken off.
    """
    ladders = defaultdict(list)
    for row in rows:
        if row.metric in COSTS and row.value > 0:
            ladders[row.case, row.way, row.metric].append(row)
    return [fit for ladder in ladders.values() for fit in _fitted(ladder, seed)]


def _fitted(ladder: list[Row], seed: int) -> Iterator[Fit]:
    over = _growing(ladder)
    if over is None:
        return
    ladder = sorted(ladder, key=lambda row: row.size[over])
    sizes = [float(row.size[over]) for row in ladder]
    rng = np.random.default_rng(seed)
    low = high = None
    if all(row.low is not None for row in ladder):
        low, high = middle(_slopes(sizes, np.stack([medians(_costs(row, over), rng) for row in ladder])))
    yield Fit(
        case=ladder[0].case,
        way=ladder[0].way,
        metric=COSTS[ladder[0].metric][0],
        over=over,
        exponent=float(_slopes(sizes, np.array([[np.median(_flat(_costs(row, over)))] for row in ladder]))[0]),
        low=low,
        high=high,
        sizes=sizes,
    )


def _growing(ladder: list[Row]) -> str | None:
    """The only key that differs, if it is a positive number with three values or more, one a row."""
    keys = dict.fromkeys(key for row in ladder for key in row.size)
    differing = [key for key in keys if len({row.size.get(key) for row in ladder}) > 1]
    if len(differing) != 1:
        return None
    values = {row.size.get(differing[0]) for row in ladder}
    numbers = all(isinstance(value, int | float) and value > 0 for value in values)
    return differing[0] if numbers and len(values) == len(ladder) >= 3 else None


def _costs(row: Row, over: str) -> list[list[float]]:
    times = float(row.size[over]) if over == "tokens" and row.metric in A_TOKEN else 1.0
    cost = COSTS[row.metric][1]
    held = row.detail.get("held_bytes", 0) if row.metric == "peak_memory" else 0
    return [[times * cost(sample) - held for sample in process] for process in row.samples]


def _flat(samples: list[list[float]]) -> list[float]:
    return [sample for process in samples for sample in process]


def _slopes(sizes: list[float], costs_KN: np.ndarray) -> np.ndarray:
    """Least-squares slopes [N] of log costs [K, N] over log sizes [K]."""
    x_K = np.log(sizes) - np.log(sizes).mean()
    return x_K @ np.log(costs_KN) / (x_K @ x_K)
