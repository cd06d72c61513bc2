"""Scores of questions as a table, on a terminal and on a page."""

import io

import pytest
from example_result import result
from rich.cells import cell_len
from rich.console import Console

from sinkctl.report.console import render
from sinkctl.report.html import html
from sinkctl.report.questions import answer_table
from sinkctl.result.questions import GroupScore, Mistake, PolicyAnswers, QuestionsDetail
from sinkctl.result.schema import Measurement, Result

HOSTILE = '[red]x[/red] \x1b[31m <script>alert("1")</script>'


def scored(label: str, *groups: tuple, mistakes=()) -> PolicyAnswers:
    """Groups are (name, asked, exact, inside)."""
    scores = [
        GroupScore(group=name, asked=asked, exact=exact, inside=inside, tokens_back=23.4 * index if index else None)
        for index, (name, asked, exact, inside) in enumerate(groups)
    ]
    asked, exact = (sum(getattr(score, name) for score in scores) for name in ("asked", "exact"))
    return PolicyAnswers(
        label=label, kind="sink_window", settings={}, asked=asked, exact=exact, inside_asked=asked, inside_exact=exact,
        outside_asked=0, outside_exact=0, cache_tokens=256, cache_bytes=2**20, groups=scores, mistakes=list(mistakes),
    )  # fmt: skip


def asked_result(*policies: PolicyAnswers, **changes) -> Result:
    detail = QuestionsDetail(
        source="asked.jsonl", questions=policies[0].asked, tokens=12_345, bos="BOS", chunk=256, keep=False,
        policies=list(policies),
    )  # fmt: skip
    speed = Measurement(name="questions.per_s", samples=[4.2], unit="questions/s", better="higher")
    return result(**({"task": "questions", "questions": detail, "measurements": [speed]} | changes))


def printed(report: Result, width: int = 80, encoding: str = "utf-8") -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    render(report, Console(file=stream, width=width))
    stream.flush()
    return stream.buffer.getvalue().decode(encoding)


def test_groups_are_columns_marked_where_the_answer_had_left_the_cache():
    first = scored("4+252", ("5", 10, 9, "yes"), ("20", 10, 1, "partly"), ("100", 20, 0, "no"))
    table = answer_table(asked_result(first).questions)
    assert table.columns == ["policy", "exact match", "5", "20 (23)", "100 (47)"]
    assert table.rows == [["4+252", "25.0 %", "90.0 %", "10.0 % (†)", "0.0 % †"]]
    assert any("had left the cache" in line for line in table.legend)


def test_many_groups_become_rows_as_in_the_paper():
    groups = [(str(back), 10, 10 - back, "yes") for back in range(8)]
    table = answer_table(asked_result(scored("4+252", *groups), scored("dense", *groups)).questions)
    assert table.columns == ["back", "4+252", "dense"]
    assert table.rows[0] == ["all", "65.0 %", "65.0 %"]
    assert table.rows[-1] == ["7 (164)", "30.0 %", "30.0 %"]


def test_questions_without_a_group_have_one_score():
    table = answer_table(asked_result(scored("4+252", ("", 8, 2, "unknown"))).questions)
    assert (table.columns, table.rows, table.legend) == (["policy", "exact match"], [["4+252", "25.0 %"]], [])


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_terminal_shows_the_scores_and_what_went_wrong(width, encoding):
    wrong = Mistake(place="asked.jsonl:7", question="?", expected=["blue"], given=HOSTILE, tokens_back=12)
    report = asked_result(scored(HOSTILE, ("near", 4, 3, "yes"), ("far", 4, 0, "no"), mistakes=[wrong] * 9))
    shown = printed(report, width, encoding)
    assert max(map(cell_len, shown.splitlines())) <= width
    for said in ("12,345 tokens", "37.5 %", "0.0 %", "asked.jsonl:7", "4.2 questions/s"):
        assert said in shown
    assert shown.count("asked.jsonl:7") == 3
    assert "\x1b" not in shown


def test_the_page_shows_the_scores_and_no_text_becomes_a_tag():
    wrong = Mistake(place=HOSTILE, question=HOSTILE, expected=[HOSTILE], given=HOSTILE, tokens_back=None)
    groups = [(HOSTILE, 4, 3, "yes"), ("far", 4, 0, "no")]
    page = html(asked_result(scored(HOSTILE, *groups, mistakes=[wrong])), {})
    for said in ("12,345 tokens", "37.5 %", "0.0 % †", "4.2 questions/s", "had left the cache"):
        assert said in page
    assert "<script>" not in page
    assert "\x1b" not in page
