"""Which setting of the cache for how much memory: of what a benchmark measured, the settings worth their memory."""

import math
from statistics import fmean, stdev

from sinkctl.report.quality import DENSE, RECOMPUTE
from sinkctl.report.summary import ScoreTable
from sinkctl.result.bench import BenchDetail, Row
from sinkctl.result.numbers import NOTHING, change, known, memory, perplexity, points

SURE = 2  # standard errors


def settings_table(detail: BenchDetail) -> ScoreTable | None:
    """A row a setting that is surely better than the one above it, which takes less memory; None without a choice."""
    rows = [row for row in detail.rows if row.metric == "perplexity" and _comparable(row)]
    cases = list(dict.fromkeys(row.case for row in rows))
    by_case = {case: [row for row in rows if row.case == case] for case in cases}
    by_case = {case: own for case, own in by_case.items() if len(own) > 1}
    if not by_case:
        return None
    body = []
    for case, own in by_case.items():
        best = worth_it(own)
        for before, row in zip([None, *best], best, strict=False):
            cells = [memory(row.detail["bytes"]), row.detail["setting"], perplexity(row.value)]
            gain = NOTHING if before is None else _gain(row, before)
            body.append([*([case] if len(by_case) > 1 else []), *cells, gain, _gain(row, best[-1], NOTHING)])
    columns = ["cache memory", "setting", "perplexity", "beside the one above", "beside the last"]
    legend = [
        f"of {len(rows)} settings by their memory; each is better than the one above it by over {SURE} standard errors",
        "cache memory: of one row, keys and values in the precision of this run where they are not rounded",
    ]
    return ScoreTable([*(["case"] if len(by_case) > 1 else []), *columns], body, set(), legend, frozenset({1}))


def worth_it(rows: list[Row]) -> list[Row]:
    """Of one case's rows the one of least memory, then each that is surely better than the last one found."""
    best: list[Row] = []
    for row in sorted(rows, key=lambda row: (row.detail["bytes"], row.value)):
        if not best:
            best.append(row)
            continue
        gain, off = _difference(best[-1], row)
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
