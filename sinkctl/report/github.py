"""A benchmark as GitHub reads it: the two files of github-action-benchmark, and annotations of a workflow's run."""

import json
from collections.abc import Iterable
from typing import Literal

from sinkctl.report.benched import interval, share_words
from sinkctl.result.bench import OURS, BenchDetail, Row
from sinkctl.result.bench_words import advantage, ours_beside, times
from sinkctl.result.numbers import NOTHING, known
from sinkctl.result.schema import Result


def smaller(result: Result) -> str:
    """`customSmallerIsBetter`: our times, memory and perplexities, as JSON; the action refuses an empty list."""
    return _entries(result, "lower")


def bigger(result: Result) -> str:
    """`customBiggerIsBetter`: our rates and scores, as JSON; the action refuses an empty list."""
    return _entries(result, "higher")


def annotations(result: Result, broken: Iterable[str]) -> list[str]:
    """A workflow command for each sentence of `broken`, the gates that failed.

    https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands
    """
    detail = result.bench
    assert detail is not None, "a result of bench"
    title = _escaped_property(f"sinkctl bench: {detail.suite}")
    return [f"::error title={title}::{_escaped(line)}" for line in broken]


def _entries(result: Result, better: Literal["lower", "higher"]) -> str:
    detail = result.bench
    assert detail is not None, "a result of bench"
    rows = [row for row in detail.rows if row.way == OURS and row.better == better and known(row.value)]
    return json.dumps([_entry(row, detail) for row in rows], indent=1, ensure_ascii=False, allow_nan=False)


def _entry(row: Row, detail: BenchDetail) -> dict[str, str | float]:
    beside = [
        f"{times(ratio)} {peer.way}"
        for peer in detail.rows
        if peer.way != OURS and ours_beside(peer, detail.rows) is row and (ratio := advantage(row, peer))
    ]
    share, machine = share_words(row), detail.machine
    extra = [f"{machine.device}, {machine.dtype}", *([] if share == NOTHING else [share]), *beside]
    entry = {"name": row.name, "unit": row.unit, "value": row.value, "extra": "\n".join(extra)}
    if row.low is not None and row.high is not None:
        entry["range"] = interval(row.low, row.high)
    return entry


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _escaped_property(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")
