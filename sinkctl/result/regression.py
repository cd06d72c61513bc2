"""Rows of a run beside the same rows of another: by how many percent each is worse, and which gates that fails."""

import math
import statistics
from collections.abc import Iterable, Sequence

from sinkctl.result.bench import BenchDetail, Change, Row
from sinkctl.result.compare import Gate, Tolerance, rows_meant
from sinkctl.result.interval import median_interval, ratio_interval

Samples = list[list[float]]  # by process and round


def changes(now: BenchDetail, before: BenchDetail, thresholds: Sequence[Gate], paired: bool, seed: int) -> list[Change]:
    """Every row that both have, same name and same size.

    Worse by P percent: of a time or a size, now / before − 1; of a rate, 1 − now / before (a drop of tokens/s by P %).
    A row with a yardstick is compared in units of the yardstick's own sample of the same process and round, so that a
    machine that is slower as a whole changes nothing; `paired`, two versions timed in turns, each sample is compared
    with that of the other version in the same round instead. A gate fails where the change exceeds its percentage, its
    interval excludes zero, and the intervals of the two medians lie apart. What is not timed is compared exactly.
    """
    limits = _limits(now.rows, thresholds)
    earlier = {row.name: row for row in before.rows}
    found = []
    for row in now.rows:
        old = earlier.get(row.name)
        if row.better == "neither" or old is None or old.size != row.size:
            continue
        if not (math.isfinite(row.value) and math.isfinite(old.value)):
            continue
        percent, low, high, apart = _compared(row, old, now, before, paired, seed)
        limit = limits.get(row.name)
        found.append(
            Change(
                name=row.name,
                unit=row.unit,
                before=old.value,
                now=row.value,
                percent=percent,
                low=low,
                high=high,
                raw_percent=_exact(row, old),
                limit=limit,
                failed=limit is not None and percent > limit and apart,
            )
        )
    return found


def _limits(rows: Iterable[Row], thresholds: Sequence[Gate]) -> dict[str, float]:
    """Row → the strictest percentage that a gate allows it."""
    limits: dict[str, float] = {}
    for gate in thresholds:
        if isinstance(gate, Tolerance):
            for row in rows_meant(rows, gate.metric):
                limits[row.name] = min(gate.percent, limits.get(row.name, math.inf))
    return limits


def _compared(
    row: Row, old: Row, now: BenchDetail, before: BenchDetail, paired: bool, seed: int
) -> tuple[float, float, float, bool]:
    """(percent, low, high, whether the two lie apart)."""
    if row.low is None or old.low is None:
        percent = _exact(row, old)
        return percent, percent, percent, percent > 0
    if paired and _aligned(row.samples, old.samples):
        ratios = _divided(row.samples, old.samples)
        percent, low, high = _worse(row, _median(ratios), median_interval(ratios, seed))
        return percent, low, high, low > 0
    new_samples, old_samples = _beside_yardstick(row, now), _beside_yardstick(old, before)
    if new_samples is None or old_samples is None or row.yardstick != old.yardstick:
        new_samples, old_samples = row.samples, old.samples
    ratio = _median(new_samples) / _median(old_samples)
    percent, low, high = _worse(row, ratio, ratio_interval(new_samples, old_samples, seed))
    (new_low, new_high), (old_low, old_high) = (median_interval(s, seed) for s in (new_samples, old_samples))
    return percent, low, high, low > 0 and (new_low > old_high or new_high < old_low)


def _worse(row: Row, ratio: float, interval: tuple[float, float]) -> tuple[float, float, float]:
    """now / before and its interval as (percent, low, high), positive where worse."""
    low, high = interval
    if row.better == "lower":
        return 100 * (ratio - 1), 100 * (low - 1), 100 * (high - 1)
    return 100 * (1 - ratio), 100 * (1 - high), 100 * (1 - low)


def _exact(row: Row, old: Row) -> float:
    """Percent worse by the medians alone; from nothing, and only then, whatever is new counts as 100 %."""
    loss = row.value - old.value if row.better == "lower" else old.value - row.value
    return 0.0 if loss == 0 else 100 * loss / (abs(old.value) or abs(row.value))


def _beside_yardstick(row: Row, run: BenchDetail) -> Samples | None:
    """Samples with the machine's own speed of that moment taken out; None without a yardstick."""
    place = (row.case, row.label, row.yardstick, row.metric)
    yardstick = next((r for r in run.rows if (r.case, r.label, r.way, r.metric) == place), None)
    if yardstick is None or not _aligned(row.samples, yardstick.samples):
        return None
    return _divided(row.samples, yardstick.samples)  # of rates too: both grow with the machine's speed


def _aligned(one: Samples, other: Samples) -> bool:
    return [len(process) for process in one] == [len(process) for process in other]


def _divided(one: Samples, other: Samples) -> Samples:
    return [[a / b for a, b in zip(*pair, strict=True)] for pair in zip(one, other, strict=True)]


def _median(samples: Samples) -> float:
    return statistics.median(sample for process in samples for sample in process)
