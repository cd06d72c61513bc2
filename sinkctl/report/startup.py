"""Seconds of whole commands, by phase: a row a command and state of the caches."""

from sinkctl.report.summary import ScoreTable
from sinkctl.result.bench import BenchDetail, Row
from sinkctl.result.numbers import NOTHING, duration

HEADS = {"seconds": "clock", "own": "its own total", "first": "first block or token", "rest": "the rest"}


def startup_rows(detail: BenchDetail) -> list[Row]:
    return [row for row in detail.rows if "command" in row.size]


def startup_table(detail: BenchDetail) -> ScoreTable | None:
    """Medians; the clock's seconds with their range. None without rows."""
    metrics = list(dict.fromkeys(row.metric for row in startup_rows(detail)))
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for row in startup_rows(detail):
        found.setdefault((row.case, row.label), {})[row.metric] = row
    if not found:
        return None
    body = [
        [f"{case}: {label}", *(_cell(rows.get(metric)) for metric in metrics)] for (case, label), rows in found.items()
    ]
    legend = [
        "seconds; clock: from the start of the process to its end, the range of its runs in brackets; its own total: "
        "what the run says, the sum of the phases after it",
    ]
    return ScoreTable(["command, caches", *(HEADS.get(metric, metric) for metric in metrics)], body, set(), legend)


def _cell(row: Row | None) -> str:
    if row is None:
        return NOTHING
    samples = [sample for process in row.samples for sample in process]
    spread = f" ({min(samples):.3g} … {max(samples):.3g})" if row.metric == "seconds" and len(samples) > 1 else ""
    return (f"{row.value:.3g}" if row.value < 59.95 else duration(row.value)) + spread
