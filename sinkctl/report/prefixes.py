"""Tokens in front of a text and what they save, as a table."""

from collections.abc import Callable

from sinkctl.report.parts import Table, table_of
from sinkctl.result.bench import BenchDetail, Row
from sinkctl.result.numbers import NOTHING, change, count, figures, perplexity, points

ADDED = "added_"


def prefix_rows(detail: BenchDetail) -> list[Row]:
    """Those that the table shows."""
    return [row for row in detail.rows if "front" in row.size]


def prefix_table(detail: BenchDetail) -> Table:
    """A row a front: what is massive past it, perplexity, and what each precision of all else adds."""
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for row in prefix_rows(detail):
        found.setdefault((row.case, str(row.size["front"])), {})[row.metric] = row

    def of_metric(metric: str, said: Callable[[float], str]) -> Callable[[tuple], str]:
        return lambda item: said(item[1][metric].value) if metric in item[1] else NOTHING

    def added(metric: str) -> Callable[[tuple], str]:
        return lambda item: _added(item[1].get(metric))

    several = len({case for case, _ in found}) > 1
    columns = {"front": lambda item: f"{item[0][0]}: {item[0][1]}" if several else item[0][1], "tokens": _spelt}
    columns |= {"perplexity": of_metric("perplexity", perplexity)}
    metrics = dict.fromkeys(metric for own in found.values() for metric in own if metric.startswith(ADDED))
    columns |= {f"{metric.removeprefix(ADDED)} adds": added(metric) for metric in metrics}
    columns |= {
        "massive places past it": of_metric("massive_places", figures),
        "largest": of_metric("largest_activation", lambda value: count(round(value))),
    }
    tokens = list(dict.fromkeys(row.detail["tokens"] for row in prefix_rows(detail) if "tokens" in row.detail))
    return table_of(
        found.items(),
        columns,
        len(tokens) == 1 and f"{count(tokens[0])} tokens of text; massive places: of a sample",
        bool(found) and "the front stays in full (of nothing in front, the first four tokens), and no recent token",
        bool(found)
        and "to use one: sinkctl stream FRONT.txt TEXT --bos never -p N+W --kv 4bit --kv-recent 0 --kv-keep first:N",
        words=["front", "tokens"],
    )


def _spelt(item: tuple[tuple[str, str], dict[str, Row]]) -> str:
    detail = next(iter(item[1].values())).detail
    front = detail["front"]
    if "why" in detail:
        return f"none: {detail['why']}"
    return " ".join(f"“{token}”".replace("\n", "\\n") for token in front) or NOTHING


def _added(row: Row | None) -> str:
    if row is None:
        return NOTHING
    off = row.detail["error"]
    return change(row.value / 100) + ("" if off is None else f" ± {points(off / 100)}")
