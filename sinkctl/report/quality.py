"""Perplexity by sinks and cache size, and answers by policy and distance, as tables; the first as a picture too."""

import math
from collections.abc import Callable

from sinkctl.report.curves import HIGHEST
from sinkctl.report.parts import LinePicture, Table, line_picture, table_of
from sinkctl.report.questions import GONE, PARTLY
from sinkctl.report.summary import BEYOND
from sinkctl.result.bench import BenchDetail, Refused, Row
from sinkctl.result.numbers import ABSENT, NOTHING, count, figures, known, percent, perplexity

BESIDE = ("kl", "flips", "bits_per_byte")
DENSE, RECOMPUTE, CHOSEN = "dense", "recompute", ("heavy_hitter", "random")
Told = Row | Refused  # what stands in a cell


def quality_table(detail: BenchDetail) -> Table:
    """A row a number of sinks (peers have their own), a column a cache size; `dense` stands in every column."""
    rows = _scored(detail)
    absent = _refused(detail, rows)
    caches = sorted({row.size["cache"] for row in [*rows, *absent] if isinstance(row.size.get("cache"), int)})
    found: dict[tuple[str, int | str], dict[int, Told]] = {}
    for row in [*rows, *absent]:
        places = caches if row.way == DENSE else [row.size["cache"]] if row.size.get("cache") in caches else []
        found.setdefault((row.case, _kept(row)), {}).update(dict.fromkeys(places, row))
    order = list(dict.fromkeys(row.case for row in rows))  # sinks by number, then peers
    items = sorted(found.items(), key=lambda i: (order.index(i[0][0]), isinstance(i[0][1], str), i[0][1]))

    def said(row: Told | None) -> str:
        if isinstance(row, Refused):
            return ABSENT
        beyond = row is not None and row.detail.get("extrapolates_from") is not None
        return NOTHING if row is None else perplexity(row.value) + BEYOND * beyond

    columns = _named("sinks", [case for case, _ in found])
    columns |= {f"cache of {count(cache)}": lambda i, cache=cache: said(i[1].get(cache)) for cache in caches}
    best = {(y, 1 + x) for x, cache in enumerate(caches) for y in _lowest(items, cache)}
    tokens = list(dict.fromkeys(row.detail["tokens"] for row in rows if "tokens" in row.detail))
    return table_of(
        items,
        columns,
        best and "* lowest of its cache size",
        len(tokens) == 1 and f"over the {count(tokens[0])} tokens that all of them scored",
        any(row.detail.get("extrapolates_from") is not None for row in rows) and "† beyond the model's context",
    )._replace(best=best)


def _named(head: str, cases: list[str]) -> dict:
    """The first column, of (case, name) keys: the case is said where there are several."""
    several = len(set(cases)) > 1
    return {head: lambda item: f"{item[0][0]}: {item[0][1]}" if several else str(item[0][1])}


def _lowest(items: list, cache: int) -> list[int]:
    """Table rows with the lowest perplexity of a cache size, case by case; peers and single numbers do not count."""
    by_case: dict[str, dict[int, float]] = {}
    for y, ((case, kept), found) in enumerate(items):
        if isinstance(found.get(cache), Row) and not isinstance(kept, str) and known(found[cache].value):
            by_case.setdefault(case, {})[y] = found[cache].value
    return [y for values in by_case.values() if len(values) > 1 for y, v in values.items() if v == min(values.values())]


def quality_picture(detail: BenchDetail) -> LinePicture | None:
    """Perplexity against the number of sinks: a line a cache size, level ones for peers; None for one number alone.

    Peers beyond the model's context are off any scale that shows the rest, and left to the table.
    """
    rows = [row for row in _scored(detail) if known(row.value) and row.value > 0 and "kv" not in row.size]
    rows = [row for row in rows if "sinks" in row.size or row.detail.get("extrapolates_from") is None]
    sinks = sorted({row.size["sinks"] for row in rows if "sinks" in row.size})
    if len(sinks) < 2:
        return None
    several, lines = len({row.case for row in rows}) > 1, {}
    for row in rows:
        level = "sinks" not in row.size
        name = row.way if row.way == DENSE else f"{f'{_kept(row)} ' if level else 'cache of '}{row.size.get('cache')}"
        dots = [(x, min(row.value, HIGHEST)) for x in ((sinks[0], sinks[-1]) if level else (row.size["sinks"],))]
        lines.setdefault(f"{row.case}: {name}" if several else name, []).extend(dots)
    caption = "Sinks and window together fill the cache."
    if any(row.value > HIGHEST for row in rows):
        caption += f" Perplexities above {HIGHEST:,.0f} are drawn at {HIGHEST:,.0f}."
    words = ("quality", "Perplexity against sinks", "sinks", "perplexity (log scale)")
    drawn = {name: sorted(dots) for name, dots in lines.items()}
    return line_picture(*words, drawn, log_y=True, caption=caption, wide=True)


def retrieval_table(detail: BenchDetail) -> Table:
    """Exact answers in percent: a row a policy, a column a distance in lines."""
    rows = [row for row in detail.rows if row.metric == "exact_match" and "back" in row.size]
    absent = _refused(detail, rows)
    found: dict[tuple[str, str], dict[int, Told]] = {}
    for row in [*rows, *absent]:
        found.setdefault((row.case, _asked_of(row)), {})[row.size["back"]] = row

    def said(row: Told | None) -> str:
        if isinstance(row, Refused):
            return ABSENT
        marks = {"no": GONE, "partly": PARTLY}
        return NOTHING if row is None else percent(row.value) + marks.get(row.detail.get("inside"), "")

    columns = _named("policy", [case for case, _ in found])
    back = sorted({row.size["back"] for row in [*rows, *absent]})
    columns |= {count(n): lambda i, n=n: said(i[1].get(n)) for n in back}
    seen = {row.detail.get("inside") for row in rows}
    return table_of(
        found.items(),
        columns,
        "exact answers; columns: lines back",
        "no" in seen and "† the answer had left the cache",
        "partly" in seen and "(†) some of the answers had, or part of them",
    )


def beside_table(detail: BenchDetail) -> Table:
    """How far each setting's predictions are from those with everything kept; empty where that was not asked for."""
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for row in detail.rows:
        if row.metric in BESIDE:
            found.setdefault((row.case, row.detail["setting"]), {})[row.metric] = row

    def of_metric(metric: str, said: Callable[[float], str]) -> Callable[[tuple], str]:
        return lambda item: said(item[1][metric].value) if metric in item[1] else NOTHING

    columns = _named("setting", [case for case, _ in found])
    columns |= {
        "KL, nats": of_metric("kl", figures), "another token likeliest": of_metric("flips", percent),
        "bits a byte": of_metric("bits_per_byte", figures),
    }  # fmt: skip
    tokens = list(dict.fromkeys(row.detail["tokens"] for own in found.values() for n, row in own.items() if n == "kl"))
    items = sorted(found.items(), key=lambda item: (item[0][0], item[1]["kl"].value if "kl" in item[1] else math.inf))
    over = len(tokens) == 1 and f"KL: of {count(tokens[0])} tokens, as far as the model's context reaches"
    return table_of(items, columns, over, words=["setting"])


def _scored(detail: BenchDetail) -> list[Row]:
    rows = [row for row in detail.rows if row.metric == "perplexity"]
    return [row for row in rows if "sinks" in row.size or row.way in (DENSE, RECOMPUTE, *CHOSEN)]


def _refused(detail: BenchDetail, rows: list[Row]) -> list[Refused]:
    """Those of the cases that these rows are of."""
    cases = {row.case for row in rows}
    return [each for each in detail.refused if each.case in cases]


def _asked_of(row: Told) -> str:
    """A policy, with its precision where that is not full."""
    policy = str(row.size.get("policy", row.label))
    return f"{policy}, {row.size['kv']}, {_in_full(row)} kept" if "kv" in row.size else policy


def _in_full(row: Told) -> str:
    return str(row.size["keep"]).replace("none", "nothing")


def _kept(row: Told) -> int | str:
    """Sinks, with their precision where that is not full, or a peer."""
    if "kv" in row.size:
        return f"{row.size['sinks']}, {row.size['kv']}, {_in_full(row)} kept"
    return row.size.get("sinks", f"{row.way}, {row.size['pinned']} sinks" if "pinned" in row.size else row.way)
