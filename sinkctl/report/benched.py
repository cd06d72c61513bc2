"""A benchmark in words, tables and pictures, on a terminal, on a page and as Markdown alike."""

from sinkctl.report import parts
from sinkctl.report.markdown import rendered
from sinkctl.report.parts import Section, Table, columns_of, of, table_of, without_empty
from sinkctl.report.prefixes import prefix_rows, prefix_table
from sinkctl.report.quality import beside_table, quality_picture, quality_table, retrieval_table
from sinkctl.report.settings import settings_table
from sinkctl.report.startup import startup_rows, startup_table
from sinkctl.report.summary import model_line, unfinished
from sinkctl.result.bench import OURS, BenchDetail, Change, Fit, Refused, Row
from sinkctl.result.bench_words import advantage, ours_beside, times, worse
from sinkctl.result.numbers import ABSENT, NOTHING, count, duration, known, memory, quantity, rate
from sinkctl.result.schema import Result

METRIC_WORDS = {"tokens_per_s": "tok/s", "ms_per_token": "ms a token"}
SAID_BY_NUMBER = ("bytes", "perplexity", "s")  # units that `quantity` writes by itself
RATE_UNITS = {"matmul": "FLOP/s", "copy": "B/s", "read": "B/s"}
LOG_X, LOG_Y = 8, 50  # ratios from which an axis is logarithmic
LIMIT = 1_000_000  # bytes; GitHub takes 1 MiB a step and shows none of a longer one
# Which columns a narrow terminal shows first: the verdict of changes; a case without its interval, memory and limit.
VERDICT_FIRST = [0, 6, 3, 1, 2, 4, 5]
LAST = ["of the limit", "added memory", "95 % interval"]


def tables(detail: BenchDetail) -> list[tuple[str, Table]]:
    """Every table, under its title: cases, quality, growth, changes, settings."""
    return [
        *((title, case_table(rows, detail)) for title, rows in case_rows(detail)),
        ("Quality", quality_table(detail)),
        ("Beside everything kept", beside_table(detail)),
        ("Prefixes", prefix_table(detail)),
        ("Retrieval", retrieval_table(detail)),
        ("Startup", startup_table(detail)),
        ("Growth", fit_table(detail.fits)),
        (f"Changes against {detail.baseline}" if detail.baseline else "Changes", change_table(detail.changes)),
        ("Which setting, for how much memory?", settings_table(detail)),
        ("Not measured", refused_table(detail.refused)),
    ]


def changes_first(detail: BenchDetail) -> list[tuple[str, Table]]:
    """The tables that have rows, as CI reads them."""
    shown = [(title, table) for title, table in tables(detail) if table.rows]
    return sorted(shown, key=lambda pair: not pair[0].startswith("Changes"))


def sections(detail: BenchDetail) -> list[Section]:
    """The same on a page, with pictures."""
    cases, quality, shown = dict(case_rows(detail)), quality_picture(detail), []
    for title, table in changes_first(detail):
        inside = [("table", table)]
        if title in cases:
            inside += [parts.plots(size_picture(title, cases[title])), ("bars", share_bars(title, cases[title]))]
        shown.append(Section(title, [*inside, parts.plots(quality if title == "Quality" else None)]))
    return shown


def case_rows(detail: BenchDetail) -> list[tuple[str, list[Row]]]:
    """Rows that share a table, by case and metric, under its title; not those that tables of their own show."""
    shown = {row.case for row in [*startup_rows(detail), *prefix_rows(detail)]}
    if quality_table(detail):
        shown |= {row.case for row in detail.rows if row.metric == "perplexity" and "cache" in row.size}
    if retrieval_table(detail):
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


def case_table(rows: list[Row], detail: BenchDetail) -> Table:
    """One row a size and way: median, interval, share of the hardware's limit, ours beside it, memory of a call."""

    def gain(row: Row) -> str:
        ours = ours_beside(row, rows)
        ratio = None if ours is None else advantage(ours, row)
        return "" if row.way == OURS else NOTHING if ratio is None else times(ratio)

    columns = {
        "size": of("label"), "way": of("way"), metric_words(rows[0]): lambda row: number(row.value, row.unit),
        "95 % interval": lambda row: NOTHING if None in (row.low, row.high) else interval(row.low, row.high, row.unit),
        "of the limit": share_words,
        "sinkctl smaller" if rows[0].unit == "bytes" else "sinkctl faster": gain,
        "added memory": lambda row: NOTHING if row.added_bytes is None else memory(row.added_bytes),
    }  # fmt: skip
    limits = {row.floor_of for row in rows if row.share is not None}
    shown = ", ".join(f"{r.name} {rate(r.value, RATE_UNITS[r.name])}" for r in detail.rates if r.name in limits)
    legend = shown and f"limit: {shown}, measured in this run"
    table = table_of(rows, columns, legend, words=["size", "way"])
    case = {row.case for row in rows}
    absent = [[each.label, each.way, ABSENT, *[""] * 4] for each in detail.refused if each.case in case]
    table = without_empty(table._replace(rows=table.rows + absent))
    names = table.columns
    order = sorted(range(len(names)), key=lambda x: 1 + LAST.index(names[x]) if names[x] in LAST else 0)
    return table._replace(narrow=columns_of(table, order) if LAST[-1] in names else None)


def refused_table(refused: list[Refused]) -> Table:
    """What could not be measured here, and why: a line a reason."""
    reasons = list(dict.fromkeys(each.why for each in refused))
    columns = {"case": of("case"), "size": of("label"), "way": of("way")}
    columns |= {"because": lambda each: f"({1 + reasons.index(each.why)})"}
    return table_of(refused, columns, *(f"({n}) {why}" for n, why in enumerate(reasons, 1)), words=list(columns))


def change_table(changes: list[Change]) -> Table:
    """Each number beside the baseline's, those that failed first."""

    def verdict(change: Change) -> str:
        word = NOTHING if change.limit is None else "FAILED" if change.failed else "passed"
        return f"{word}, reran" if change.reran else word

    columns = {
        "name": of("name"), "before": lambda change: quantity(change.before, change.unit),
        "now": lambda change: quantity(change.now, change.unit),
        "change": lambda change: worse(change.percent, change.low, change.high), "as timed": of("raw_percent", worse),
        "allowed": lambda change: NOTHING if change.limit is None else f"{change.limit:g} %", "verdict": verdict,
    }  # fmt: skip
    table = table_of(
        sorted(changes, key=lambda change: not change.failed),
        columns,
        "as timed: before the machine's own change is taken out",
        any(change.reran for change in changes) and "reran: measured a second time before it counted",
        words=["name", "verdict"],
    )
    return table._replace(narrow=columns_of(table, VERDICT_FIRST))


def fit_table(fits: list[Fit]) -> Table:
    """How time and memory grow: exponents fitted over the sizes."""
    columns = {"case": of("case"), "way": of("way"), "growth": fit_words}
    columns |= {"sizes": lambda fit: interval(min(fit.sizes), max(fit.sizes))}
    intervals = any(fit.low is not None for fit in fits) and "95 % intervals in brackets"
    return table_of(fits, columns, intervals, words=["case", "way"])


def fit_words(fit: Fit) -> str:
    """seconds ∝ tokens^1.02 (0.99 … 1.05); bytes ∝ tokens^1.00, which nothing timed."""
    known = [value for value in (fit.exponent, fit.low, fit.high) if value is not None]
    exponent, *ends = [f"{value:.2f}".replace("-", "−") for value in known]
    return f"{fit.metric} ∝ {fit.over}^{exponent}" + (f" ({' … '.join(ends)})" if ends else "")


def facts(detail: BenchDetail) -> list[list[str]]:
    """How it was measured, as rows of a table."""
    machine = detail.machine
    rows = [
        ["suite", detail.suite], ["device", machine.device], ["threads", count(machine.threads)],
        ["dtype", machine.dtype], ["measured model", machine.model],
        ["versions", ", ".join(f"{name} {version}" for name, version in machine.versions.items() if version)],
        ["hardware", ", ".join(f"{found.name} {rate(found.value, RATE_UNITS[found.name])}" for found in detail.rates)],
        ["timing", ", ".join(f"{name}: {value}" for name, value in detail.settings.items() if value is not None)],
        ["baseline", detail.baseline or ""],
    ]  # fmt: skip
    return [row for row in rows if row[1]]


def summary(result: Result, environment: dict) -> str:
    """The benchmark as GitHub-flavoured Markdown, for a workflow's summary; its tables are cut until it fits."""
    detail = result.bench
    assert detail is not None, "a result of bench"
    shown = changes_first(detail)
    model = [] if result.model is None else [model_line(result.model)]
    words = dict(suite=detail.suite, said=[*unfinished(result), *result.verdict], facts=facts(detail))
    words |= dict(under="; ".join([*model, duration(result.seconds)]), notes=result.notes, environment=environment)
    most = max((len(table.rows) for _, table in shown), default=0)
    while len((page := rendered("summary.md", tables=_cut(shown, most), **words)).encode()) > LIMIT and most > 1:
        most //= 2
    return page


def _cut(shown: list[tuple[str, Table]], most: int) -> list[tuple[str, Table]]:
    lost = {title: count(len(table.rows) - most) for title, table in shown if len(table.rows) > most}
    said = {title: f"cut to the {count(most)} first rows, {n} more are in result.json" for title, n in lost.items()}
    return [
        (title, table._replace(rows=table.rows[:most], legend=[*table.legend, said[title]]) if title in said else table)
        for title, table in shown
    ]


def metric_words(row: Row) -> str:
    """A metric with its unit, as the head of a column."""
    words = METRIC_WORDS.get(row.metric, row.metric.replace("_", " "))
    said = row.metric in METRIC_WORDS or row.unit in ("", row.metric, *SAID_BY_NUMBER)
    return words if said else f"{words}, {row.unit}"


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


def size_picture(title: str, rows: list[Row]) -> parts.LinePicture | None:
    """Rows of one metric against the size that varies most, a line a way and size besides; None of a single size."""
    values: dict[str, set[float]] = {}
    for row in rows:
        for name, value in row.size.items():
            if isinstance(value, int | float):
                values.setdefault(name, set()).add(float(value))
    grown = sorted((name for name, found in values.items() if len(found) > 1), key=lambda name: -len(values[name]))
    if not grown:
        return None
    over, words = grown[0], metric_words(rows[0])
    scale, unit = parts.bytes_scale(max(row.value for row in rows)) if rows[0].unit == "bytes" else (1, "")
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in sorted((row for row in rows if over in row.size), key=lambda row: float(row.size[over])):
        others = [f"{name}={row.size[name]}" for name in grown[1:] if name in row.size]
        lines.setdefault(", ".join([row.way, *others]), []).append((float(row.size[over]), row.value / scale))
    lines = dict(sorted(lines.items(), key=lambda item: not item[0].startswith(OURS)))
    dots = [dot for line in lines.values() for dot in line]
    log_x, log_y = (
        min(values) > 0 and max(values) >= ratio * min(values)
        for values, ratio in (([x for x, _ in dots], LOG_X), ([y for _, y in dots if known(y)] or [0], LOG_Y))
    )
    title, y_title = f"{title}: {words} by {over}", f"{words}, {unit}" if scale > 1 else words
    return parts.line_picture("size", title, over, y_title, lines, log_x=log_x, log_y=log_y)


def share_bars(title: str, rows: list[Row]) -> parts.Bars | None:
    """Percent of the hardware's limit, a bar a size and way."""
    ways = sorted(dict.fromkeys(row.way for row in rows), key=lambda way: way != OURS)
    shown = [row for row in rows if known(row.share)]
    drawn = [(f"{row.label} {row.way}, {row.floor_of}", 100 * row.share, ways.index(row.way)) for row in shown]
    return parts.bars(f"{title}: share of the hardware's limit", drawn, lambda value: f"{value:.3g} %")
