"""A benchmark as GitHub-flavoured Markdown, for the summary of a workflow's step."""

from typing import Any

from sinkctl.report.benched import facts, tables
from sinkctl.report.markdown import escaped, fenced, table
from sinkctl.report.printable import as_yaml
from sinkctl.report.summary import ScoreTable, model_line, unfinished
from sinkctl.result.numbers import count, duration
from sinkctl.result.schema import Result

LIMIT = 1_000_000  # bytes; GitHub takes 1 MiB a step and shows none of a longer one


def summary(result: Result, environment: dict[str, Any]) -> str:
    """The whole page, its tables cut until it fits."""
    detail = result.bench
    assert detail is not None, "a result of bench"
    titled = tables(detail)
    if detail.changes:  # first
        titled = titled[-1:] + titled[:-1]
    most = max((len(scores.rows) for _, scores in titled), default=0)
    while len((page := _page(result, environment, titled, most)).encode()) > LIMIT and most > 1:
        most //= 2
    return page


def _page(result: Result, environment: dict[str, Any], titled: list[tuple[str, ScoreTable]], most: int) -> str:
    lines = [f"## sinkctl bench: {escaped(result.bench.suite)}", ""]
    lines += [f"- {escaped(line)}" for line in [*unfinished(result), *result.verdict]]
    model = [] if result.model is None else [model_line(result.model)]
    lines += ["", escaped("; ".join([*model, duration(result.seconds)])), ""]
    for title, scores in titled:
        lines += [f"### {escaped(title)}", "", *table(_cut(scores, most))]
    if result.notes:
        lines += ["### Notes", "", *(f"- {escaped(note)}" for note in result.notes), ""]
    lines += ["### How it was measured", "", *(f"- {escaped(f'{name}: {said}')}" for name, said in facts(result.bench))]
    return "\n".join([*lines, "", *fenced("yaml", as_yaml(environment))])


def _cut(scores: ScoreTable, most: int) -> ScoreTable:
    lost = len(scores.rows) - most
    if lost <= 0:
        return scores
    said = f"cut to the {count(most)} first rows, {count(lost)} more are in result.json"
    return scores._replace(rows=scores.rows[:most], legend=[*scores.legend, said])
