"""Seconds of whole commands, by phase: a row a command and state of the caches."""

from sinkctl.report.summary import ScoreTable
from sinkctl.result.bench import BenchDetail, Row
from sinkctl.result.numbers import NOTHING

HEADS = {"seconds": "clock", "own": "in all"}


def startup_rows(detail: BenchDetail) -> list[Row]:
    return [row for row in detail.rows if "command" in row.size]


def startup_table(detail: BenchDetail) -> ScoreTable | None:
    """Medians in seconds, and the range of the clock's; what took no time in any row is left out. None without rows."""
    rows = startup_rows(detail)
    metrics = [metric for metric in dict.fromkeys(row.metric for row in rows) if _any(rows, metric)]
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        found.setdefault((row.case, row.label), {})[row.metric] = row
    if not found:
        return None
    several = len({case for case, _ in found}) > 1
    body = [
        [f"{case}: {label}" if several else label, *(_cell(own.get(m)) for m in metrics), _range(own.get("seconds"))]
        for (case, label), own in found.items()
    ]
    columns = ["seconds", *(HEADS.get(metric, metric) for metric in metrics), "clock's range"]
    legend = [
        "clock: from the start of the process to its end; in all: what the run says itself, the sum of what follows; "
        "first: block or token"
    ]
    return ScoreTable(columns, body, set(), legend)


def _any(rows: list[Row], metric: str) -> bool:
    return any(row.value for row in rows if row.metric == metric)


def _cell(row: Row | None) -> str:
    return NOTHING if row is None else f"{row.value:.2f}"


def _range(row: Row | None) -> str:
    samples = [] if row is None else [sample for process in row.samples for sample in process]
    return f"{min(samples):.2f} … {max(samples):.2f}" if len(samples) > 1 else NOTHING
