"""Saved benchmarks side by side."""

from typing import Any

from sinkctl.report.summary import ScoreTable
from sinkctl.result.bench import Machine, Row
from sinkctl.result.bench_words import points, worse
from sinkctl.result.numbers import NOTHING, quantity
from sinkctl.result.schema import Result

NOISE = " ~"


def compared(results: list[Result], names: list[str]) -> ScoreTable:
    """One row a measurement and one column a result; the last column compares the last with the first."""
    details = [result.bench for result in results if result.bench is not None]
    assert len(details) == len(results) == len(names), "results of bench"
    by_name = [{row.name: row for row in detail.rows} for detail in details]
    order = dict.fromkeys(name for rows in by_name for name in rows)
    table = []
    for name in order:
        rows = [of_result.get(name) for of_result in by_name]
        cells = [NOTHING if row is None else quantity(row.value, row.unit) for row in rows]
        table.append([name, *cells, _change(rows[0], rows[-1])])
    legend = [f"change: of {names[-1]} against {names[0]}"] if names else []
    if any(row[-1].endswith(NOISE) for row in table):
        legend.append("~ the 95 % intervals of the two overlap")
    legend += _differences([detail.machine for detail in details], names)
    return ScoreTable(["measurement", *names, "change"], table, set(), legend)


def _change(before: Row | None, now: Row | None) -> str:
    if before is None or now is None or not before.value:
        return NOTHING
    ratio = now.value / before.value
    if before.better == "neither":
        return f"{'+' if ratio >= 1 else ''}{points(100 * (ratio - 1))} %"
    said = worse(100 * (1 - ratio if before.better == "higher" else ratio - 1))
    return said + (NOISE if _overlap(before, now) else "")


def _overlap(before: Row, now: Row) -> bool:
    ends = (before.low, before.high, now.low, now.high)
    return None not in ends and before.low <= now.high and now.low <= before.high


def _differences(machines: list[Machine], names: list[str]) -> list[str]:
    """What of the machine, beside the code, is not the same in all of them."""
    flat = [machine.model_dump(exclude={"versions"}) | machine.versions for machine in machines]
    keys = dict.fromkeys(key for of_machine in flat for key in of_machine)
    return [line for key in keys for line in not_the_same(key, [of_machine.get(key) for of_machine in flat], names)]


def not_the_same(what: str, values: list[Any], names: list[str]) -> list[str]:
    """One line where these differ among the results, none where they do not."""
    if len(set(values)) <= 1:
        return []
    pairs = (f"{value} ({name})" for value, name in zip(values, names, strict=True))
    return [f"not the same {what}: {', '.join(pairs)}"]
