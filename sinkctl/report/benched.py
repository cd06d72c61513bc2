"""A benchmark in words and rows, on a terminal and on a page alike."""

from collections.abc import Iterable

from sinkctl.report.measured import without_empty
from sinkctl.report.quality import quality_table, retrieval_table
from sinkctl.report.settings import settings_table
from sinkctl.report.startup import startup_rows, startup_table
from sinkctl.report.summary import ScoreTable
from sinkctl.result.bench import OURS, BenchDetail, Change, Fit, Row
from sinkctl.result.bench_words import advantage, ours_beside, times, worse
from sinkctl.result.numbers import NOTHING, count, memory, quantity, rate

METRIC_WORDS = {"tokens_per_s": "tok/s", "ms_per_token": "ms a token"}
SETTINGS = "Which setting, for how much memory?"
MEMORY = "added memory"  # the head over what a call takes
SAID_BY_NUMBER = ("bytes", "perplexity", "s")  # units that `quantity` writes by itself
RATE_UNITS = {"matmul": "FLOP/s", "copy": "B/s", "read": "B/s"}


def tables(detail: BenchDetail) -> list[tuple[str, ScoreTable]]:
    """Every table that has rows, under its title: cases, quality, growth, changes, settings."""
    titled = [(title, case_table(rows, detail)) for title, rows in case_rows(detail)]
    titled += [("Quality", quality_table(detail)), ("Retrieval", retrieval_table(detail))]
    titled += [("Startup", startup_table(detail))]
    titled += [("Growth", fit_table(detail.fits)), (changes_title(detail), change_table(detail.changes))]
    titled += [(SETTINGS, settings_table(detail))]
    return [(title, table) for title, table in titled if table is not None and table.rows]


def case_rows(detail: BenchDetail) -> list[tuple[str, list[Row]]]:
    """Rows that share a table, by case and metric, under its title; not those that tables of their own show."""
    shown = {row.case for row in startup_rows(detail)}
    if quality_table(detail) is not None:
        shown |= {row.case for row in detail.rows if row.metric == "perplexity" and "sinks" in row.size}
    if retrieval_table(detail) is not None:
        shown |= {row.case for row in detail.rows if row.metric == "exact_match" and "back" in row.size}
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in detail.rows:
        if row.case not in shown:
            groups.setdefault((row.case, row.metric), []).append(row)
    cases = [case for case, _ in groups]
    return [
        (case if cases.count(case) == 1 else f"{case}: {metric_words(rows[0])}", rows)
        for (case, _), rows in groups.items()
    ]


def case_table(rows: list[Row], detail: BenchDetail) -> ScoreTable:
    """One row a size and way: median, interval, share of the hardware's limit, ours beside it, memory of a call."""
    columns = [
        "size",
        "way",
        metric_words(rows[0]),
        "95 % interval",
        "of the limit",
        gain_words(rows[0]),
        MEMORY,
    ]
    cells = [
        [
            row.label,
            row.way,
            number(row.value, row.unit),
            NOTHING if row.low is None or row.high is None else interval(row.low, row.high, row.unit),
            share_words(row),
            _gain(row, rows),
            memory_words(row),
        ]
        for row in rows
    ]
    return without_empty(ScoreTable(columns, cells, set(), _legend(rows, detail), frozenset({0, 1})))


def change_table(changes: list[Change]) -> ScoreTable:
    """Each number beside the baseline's, those that failed first."""
    columns = ["name", "before", "now", "change", "as timed", "allowed", "verdict"]
    rows = [
        [
            change.name,
            quantity(change.before, change.unit),
            quantity(change.now, change.unit),
            worse(change.percent, change.low, change.high),
            worse(change.raw_percent),
            NOTHING if change.limit is None else f"{change.limit:g} %",
            _verdict(change),
        ]
        for change in sorted(changes, key=lambda change: not change.failed)
    ]
    legend = ["as timed: before the machine's own change is taken out"]
    if any(change.reran for change in changes):
        legend.append("reran: measured a second time before it counted")
    return ScoreTable(columns, rows, set(), legend, frozenset({0, 6}))


def changes_title(detail: BenchDetail) -> str:
    return f"Changes against {detail.baseline}" if detail.baseline else "Changes"


def fit_table(fits: list[Fit]) -> ScoreTable:
    """How time and memory grow: exponents fitted over the sizes."""
    rows = [[fit.case, fit.way, fit_words(fit), interval(min(fit.sizes), max(fit.sizes))] for fit in fits]
    legend = ["95 % intervals in brackets"] if any(fit.low is not None for fit in fits) else []
    return ScoreTable(["case", "way", "growth", "sizes"], rows, set(), legend, frozenset({0, 1}))


def fit_words(fit: Fit) -> str:
    """seconds ∝ tokens^1.02 (0.99 … 1.05); bytes ∝ tokens^1.00, which nothing timed."""
    known = [value for value in (fit.exponent, fit.low, fit.high) if value is not None]
    exponent, *ends = [f"{value:.2f}".replace("-", "−") for value in known]
    return f"{fit.metric} ∝ {fit.over}^{exponent}" + (f" ({' … '.join(ends)})" if ends else "")


def facts(detail: BenchDetail) -> list[list[str]]:
    """How it was measured, as rows of a table."""
    machine = detail.machine
    rows = [
        ["suite", detail.suite],
        ["device", machine.device],
        ["threads", count(machine.threads)],
        ["dtype", machine.dtype],
        ["measured model", machine.model],
        ["versions", ", ".join(f"{name} {version}" for name, version in machine.versions.items() if version)],
        ["hardware", rates_line(detail)],
        ["timing", ", ".join(f"{name}: {value}" for name, value in detail.settings.items() if value is not None)],
        ["baseline", detail.baseline or ""],
    ]
    return [row for row in rows if row[1]]


def rates_line(detail: BenchDetail) -> str:
    """matmul 741 TFLOP/s, copy 4.27 TB/s, read 4.37 TB/s."""
    return ", ".join(f"{found.name} {rate(found.value, RATE_UNITS[found.name])}" for found in detail.rates)


def metric_words(row: Row) -> str:
    """A metric with its unit, as the head of a column."""
    words = METRIC_WORDS.get(row.metric, row.metric.replace("_", " "))
    said = row.metric in METRIC_WORDS or row.unit in ("", row.metric, *SAID_BY_NUMBER)
    return words if said else f"{words}, {row.unit}"


def gain_words(row: Row) -> str:
    """The head over how many times better ours is than the way of a row."""
    return "sinkctl smaller" if row.unit == "bytes" else "sinkctl faster"


def number(value: float, unit: str = "") -> str:
    """A value under a head that names its unit."""
    return quantity(value, unit if unit in SAID_BY_NUMBER else "")


def interval(low: float, high: float, unit: str = "") -> str:
    """41,020 … 41,388."""
    return f"{number(low, unit)} … {number(high, unit)}"


def share_words(row: Row) -> str:
    """64 % of copy."""
    if row.share is None:
        return NOTHING
    percent = 100 * row.share
    return f"{percent:.0f} % of {row.floor_of}" if percent >= 9.95 else f"{percent:.2g} % of {row.floor_of}"


def memory_words(row: Row) -> str:
    """What a call takes beside what was held before."""
    return NOTHING if row.added_bytes is None else memory(row.added_bytes)


def _gain(row: Row, rows: list[Row]) -> str:
    if row.way == OURS:
        return ""
    ours = ours_beside(row, rows)
    ratio = None if ours is None else advantage(ours, row)
    return NOTHING if ratio is None else times(ratio)


def _verdict(change: Change) -> str:
    word = NOTHING if change.limit is None else "FAILED" if change.failed else "passed"
    return f"{word}, reran" if change.reran else word


def _legend(rows: Iterable[Row], detail: BenchDetail) -> list[str]:
    limits = {row.floor_of for row in rows if row.share is not None}
    shown = [f"{r.name} {rate(r.value, RATE_UNITS[r.name])}" for r in detail.rates if r.name in limits]
    return [f"limit: {', '.join(shown)}, measured in this run"] if shown else []
