"""Which setting of the cache for how much memory: of what a benchmark measured, the settings worth their memory."""

import math
from statistics import fmean, stdev

from sinkctl.report.parts import Table, table_of
from sinkctl.report.quality import DENSE, RECOMPUTE
from sinkctl.result.bench import BenchDetail, Row
from sinkctl.result.numbers import NOTHING, change, known, memory, perplexity, points

SURE = 2  # standard errors


def settings_table(detail: BenchDetail) -> Table:
    """A row a setting that is surely better than the one above it, which takes less memory; empty without a choice."""
    rows = [row for row in detail.rows if row.metric == "perplexity" and _comparable(row)]
    by_case: dict[str, list[Row]] = {}
    for row in rows:
        by_case.setdefault(row.case, []).append(row)
    found = [worth_it(own) for own in by_case.values() if len(own) > 1]
    items = [(before, row, best[-1]) for best in found for before, row in zip([None, *best], best, strict=False)]
    columns = {"case": lambda item: item[1].case} if len(found) > 1 else {}
    columns |= {
        "cache memory": lambda item: memory(item[1].detail["bytes"]),
        "setting": lambda item: item[1].detail["setting"],
        "perplexity": lambda item: perplexity(item[1].value),
        "beside the one above": lambda item: NOTHING if item[0] is None else _gain(item[1], item[0]),
        "beside the last": lambda item: _gain(item[1], item[2], NOTHING),
    }
    return table_of(
        items,
        columns,
        f"of {len(rows)} settings by their memory; each is better than the one above it by over {SURE} standard errors",
        "cache memory: of one row, keys and values in the precision of this run where they are not rounded",
        words=[name for name in ("case", "setting") if name in columns],
    )


def worth_it(rows: list[Row]) -> list[Row]:
    """Of one case's rows the one of least memory, then each that is surely better than the last one found."""
    best: list[Row] = []
    for row in sorted(rows, key=lambda row: (row.detail["bytes"], row.value)):
        gain, off = _difference(best[-1], row) if best else (math.inf, 0.0)
        if gain > SURE * off:
            best.append(row)
    return best


def _comparable(row: Row) -> bool:
    """Whether a row has a cache whose memory is known, inside what the model was trained on."""
    known_size = row.detail.get("bytes") and row.way != RECOMPUTE and len(row.detail.get("stretches", ())) > 1
    return bool(known_size and known(row.value)) and not (row.way == DENSE and row.detail.get("extrapolates_from"))


def _difference(row: Row, other: Row) -> tuple[float, float]:
    """How far the first row's mean loss lies above the other's in nats, and its standard error, stretches paired."""
    each = [a - b for a, b in zip(row.detail["stretches"], other.detail["stretches"], strict=True)]
    return fmean(each), stdev(each) / math.sqrt(len(each))


def _gain(row: Row, beside: Row, same: str = "") -> str:
    """Of perplexity, in percent, with its standard error."""
    if row is beside:
        return same
    nats, off = _difference(row, beside)
    factor = math.exp(nats)
    return f"{change(factor - 1)} ± {points(factor * off)}"
