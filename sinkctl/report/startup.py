"""Seconds of whole commands, by phase: a row a command and state of the caches."""

from sinkctl.report.parts import Table, table_of
from sinkctl.result.bench import BenchDetail, Row
from sinkctl.result.numbers import NOTHING

HEADS = {"seconds": "clock", "own": "in all"}


def startup_rows(detail: BenchDetail) -> list[Row]:
    return [row for row in detail.rows if "command" in row.size]


def startup_table(detail: BenchDetail) -> Table:
    """Medians in seconds, and the range of the clock's; what took no time in any row is left out."""
    rows = startup_rows(detail)
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        found.setdefault((row.case, row.label), {})[row.metric] = row
    several = len({case for case, _ in found}) > 1

    def spread(item: tuple) -> str:
        row = item[1].get("seconds")
        samples = [] if row is None else [sample for process in row.samples for sample in process]
        return f"{min(samples):.2f} … {max(samples):.2f}" if len(samples) > 1 else NOTHING

    columns = {"seconds": lambda item: ": ".join(item[0]) if several else item[0][1]}
    for metric in dict.fromkeys(row.metric for row in rows if row.value):
        columns[HEADS.get(metric, metric)] = lambda i, m=metric: f"{i[1][m].value:.2f}" if m in i[1] else NOTHING
    columns["clock's range"] = spread
    return table_of(
        found.items(),
        columns,
        "clock: from the start of the process to its end; in all: what the run says itself, the sum of what follows; "
        "first: block or token",
    )
