"""The report on a terminal."""

import io
import re

import pytest
from example_result import curve, passage, policy, result, stream_result
from rich.cells import cell_len
from rich.console import Console

from sinkctl.report.chart import chart
from sinkctl.report.console import render

HOSTILE = "[red]not red[/red] [/] \x1b[31m\nnext line \u202egnp"


def printed(report, width=80, encoding="utf-8", **options) -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    render(report, Console(file=stream, width=width, **options))
    stream.flush()
    return stream.buffer.getvalue().decode(encoding)


@pytest.mark.parametrize("width", [40, 80, 120])
def test_nothing_is_wider_than_the_terminal(width):
    policies = [policy("4+252", curve([30.0] * 20)), policy("a label as long as they come " * 3, curve([40.0] * 20))]
    shown = printed(stream_result(policies, [passage("long text " * 40)]), width)
    assert max(map(cell_len, shown.splitlines())) <= width
    assert "4+252" in shown


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_text_from_outside_is_neither_markup_nor_a_terminal_command(encoding):
    report = stream_result([policy(HOSTILE, curve([30.0] * 3))], [passage(HOSTILE, file=HOSTILE)], verdict=[HOSTILE])
    shown = printed(report, 200, encoding, force_terminal=True, color_system=None)
    assert shown.count(r"[red]not red[/red] [/] \x1b[31m\nnext line \u202egnp") >= 4
    assert "\x1b[31m" not in shown
    assert "\u202e" not in shown


def test_the_best_policy_is_the_best_on_the_tokens_all_of_them_scored():
    short = policy("dense", curve([20.0]), perplexity=20.0, common_perplexity=31.0, common_tokens=90)
    whole = policy("4+252", curve([30.0]), perplexity=30.0, common_perplexity=29.5, common_tokens=90)
    shown = printed(stream_result([short, whole]))
    assert re.findall(r"([\d.]+) \*", shown) == ["29.50"]
    assert "the 90 that every policy scored" in shown


def test_one_policy_is_not_called_the_best():
    assert "*" not in printed(stream_result([policy("4+252", curve([30.0]))]))


def test_a_result_without_a_single_score_still_prints():
    empty = policy("dense", [], tokens=0, perplexity=None, common_perplexity=None, common_tokens=0, cache_tokens=None)
    shown = printed(stream_result([empty], complete=False))
    assert "dense" in shown
    assert "Incomplete" in shown
    assert "nan" not in shown.lower()


def test_a_task_without_a_stream_prints_its_measurements():
    shown = printed(result(task="measure"))
    assert "3,760 tok/s" in shown
    assert "4+252 holds perplexity 10.0 to the end." in shown
    assert "The text was cut once." in shown


def test_a_chart_puts_each_policy_at_its_height_without_colour():
    drawn = chart([policy("low", curve([10.0] * 9)), policy("high", curve([1000.0] * 9))], 60, 13).plain
    rows = drawn.splitlines()
    at = {
        sign: next(i for i, row in enumerate(rows) if row.startswith("│") and sign in row.split("│")[1])
        for sign in "ox"
    }
    ticks = {row.rpartition("│")[2].strip(): i for i, row in enumerate(rows) if "│" in row}
    assert abs(at["o"] - ticks["10"]) <= 1
    assert abs(at["x"] - ticks["10^3"]) <= 1
    assert rows[-1].split() == ["o", "low", "x", "high"]


def test_an_ascii_chart_is_ascii():
    drawn = chart([policy("naïve …", curve([10.0, 20.0]), extrapolates_from=100)], 60, 8, ascii_only=True).plain
    assert drawn.isascii()
    assert "context 100" in drawn


def test_lines_have_colours_where_the_terminal_has():
    report = stream_result([policy("low", curve([10.0] * 9)), policy("high", curve([1000.0] * 9))])
    coloured = printed(report, force_terminal=True, color_system="truecolor")
    assert {"38;2;47;143;208", "38;2;224;112;26"} <= set(re.findall(r"38;2;\d+;\d+;\d+", coloured))
    assert "\x1b" not in printed(report)
