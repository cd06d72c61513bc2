"""Perplexity by sinks and cache size, and answers by policy and distance, as tables; the first as a picture too."""

from collections.abc import Iterable

from sinkctl.report.curves import HIGHEST
from sinkctl.report.picture import LinePicture
from sinkctl.report.questions import GONE, PARTLY
from sinkctl.report.summary import BEYOND, ScoreTable
from sinkctl.result.bench import BenchDetail, Row
from sinkctl.result.numbers import NOTHING, count, known, percent, perplexity

DENSE, RECOMPUTE, CHOSEN = "dense", "recompute", ("heavy_hitter", "random")
Key = tuple[str, int | str]  # the case, and sinks or a peer


def quality_table(detail: BenchDetail) -> ScoreTable | None:
    """A row a number of sinks (peers have their own), a column a cache size; None without rows."""
    rows = _scored(detail)
    if not rows:
        return None
    caches = _caches(rows)
    cells = _cells(rows, caches)
    several = len({case for case, _ in cells}) > 1
    best = {(y, 1 + x) for x in range(len(caches)) for y in _lowest(cells, x)}
    legend = ["* lowest of its cache size"] if best else []
    tokens = list(dict.fromkeys(row.detail["tokens"] for row in rows if "tokens" in row.detail))
    if len(tokens) == 1:
        legend.append(f"over the {count(tokens[0])} tokens that all of them scored")
    if any(row.detail.get("extrapolates_from") is not None for row in rows):
        legend.append("† beyond the model's context")
    body = [
        [_name(case, kept, several), *(NOTHING if row is None else _cell(row) for row in found)]
        for (case, kept), found in cells.items()
    ]
    return ScoreTable(["sinks", *(f"cache of {count(cache)}" for cache in caches)], body, best, legend)


def quality_picture(detail: BenchDetail) -> LinePicture | None:
    """Perplexity against the number of sinks: a line a cache size, level ones for peers; None for one number alone.

    Peers beyond the model's context are off any scale that shows the rest, and left to the table.
    """
    rows = [row for row in _scored(detail) if known(row.value) and row.value > 0]
    rows = [row for row in rows if "sinks" in row.size or row.detail.get("extrapolates_from") is None]
    rows = [row for row in rows if "kv" not in row.size]
    sinks = sorted({row.size["sinks"] for row in rows if "sinks" in row.size})
    if len(sinks) < 2:
        return None
    several, lines = len({row.case for row in rows}) > 1, {}
    for row in rows:
        level = "sinks" not in row.size
        name = row.way if row.way == DENSE else f"{f'{_kept(row)} ' if level else 'cache of '}{row.size.get('cache')}"
        places = (sinks[0], sinks[-1]) if level else (row.size["sinks"],)
        dots = [(float(x), min(row.value, HIGHEST)) for x in places]
        lines.setdefault(f"{row.case}: {name}" if several else name, []).extend(dots)
    caption = "Sinks and window together fill the cache."
    if any(row.value > HIGHEST for row in rows):
        caption += f" Perplexities above {HIGHEST:,.0f} are drawn at {HIGHEST:,.0f}."
    drawn = {name: sorted(dots) for name, dots in lines.items()}
    words = ("quality", "Perplexity against sinks", "sinks", "perplexity (log scale)")
    return LinePicture(*words, drawn, log_y=True, caption=caption, wide=True)


def retrieval_table(detail: BenchDetail) -> ScoreTable | None:
    """Exact answers in percent: a row a policy, a column a distance in lines; None without rows."""
    rows = [row for row in detail.rows if row.metric == "exact_match" and "back" in row.size]
    if not rows:
        return None
    backs = sorted({row.size["back"] for row in rows})
    several = len({row.case for row in rows}) > 1
    found: dict[tuple[str, str], dict[int, Row]] = {}
    for row in rows:
        found.setdefault((row.case, str(row.size.get("policy", row.label))), {})[row.size["back"]] = row
    legend = ["exact answers; columns: lines back"]
    seen = {row.detail.get("inside") for row in rows}
    legend += ["† the answer had left the cache"] if "no" in seen else []
    legend += ["(†) some of the answers had, or part of them"] if "partly" in seen else []
    body = [
        [_name(*key, several), *(NOTHING if back not in by_back else _answered(by_back[back]) for back in backs)]
        for key, by_back in found.items()
    ]
    return ScoreTable(["policy", *(count(back) for back in backs)], body, set(), legend)


def _scored(detail: BenchDetail) -> list[Row]:
    rows = [row for row in detail.rows if row.metric == "perplexity"]
    return [row for row in rows if "sinks" in row.size or row.way in (DENSE, RECOMPUTE, *CHOSEN)]


def _caches(rows: Iterable[Row]) -> list[int]:
    return sorted({row.size["cache"] for row in rows if isinstance(row.size.get("cache"), int)})


def _cells(rows: list[Row], caches: list[int]) -> dict[Key, list[Row | None]]:
    """By case and sinks or peer, the rows by cache size; `dense`, which has none, stands in every column."""
    cells: dict[Key, list[Row | None]] = {}
    for row in rows:
        line = cells.setdefault((row.case, _kept(row)), [None] * len(caches))
        for x, cache in enumerate(caches):
            if row.way == DENSE or row.size.get("cache") == cache:
                line[x] = row
    order = {case: place for place, case in enumerate(dict.fromkeys(row.case for row in rows))}
    return dict(sorted(cells.items(), key=lambda item: (order[item[0][0]], *_order(item[0][1]))))


def _kept(row: Row) -> int | str:
    """Sinks, with their precision where that is not full, or a peer."""
    if "kv" in row.size:
        return f"{row.size['sinks']}, {row.size['kv']}, " + row.size["keep"].replace("none", "nothing") + " kept"
    peer = f"{row.way}, {row.size['pinned']} sinks" if "pinned" in row.size else row.way
    return row.size.get("sinks", peer)


def _order(kept: int | str) -> tuple[bool, int | str]:
    """Sinks by number, then peers."""
    return (isinstance(kept, str), kept)


def _lowest(cells: dict[Key, list[Row | None]], column: int) -> list[int]:
    """Table rows with the lowest perplexity of a cache size, case by case; peers and single numbers do not count."""
    by_case: dict[str, dict[int, float]] = {}
    for y, ((case, kept), found) in enumerate(cells.items()):
        row = found[column]
        if row is not None and not isinstance(kept, str) and known(row.value):
            by_case.setdefault(case, {})[y] = row.value
    return [y for values in by_case.values() if len(values) > 1 for y, v in values.items() if v == min(values.values())]


def _name(case: str, what: int | str, several: bool) -> str:
    return f"{case}: {what}" if several else str(what)


def _cell(row: Row) -> str:
    return perplexity(row.value) + (BEYOND if row.detail.get("extrapolates_from") is not None else "")


def _answered(row: Row) -> str:
    return percent(row.value) + {"no": GONE, "partly": PARTLY}.get(row.detail.get("inside"), "")
