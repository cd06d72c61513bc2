"""A benchmark in words, and in each format as its reader takes it."""

import io
import json
import re
from html import unescape
from urllib.parse import unquote

import pytest
from benched_example import HOSTILE, bench_result, change, detail, exact, rows, timed
from jsonschema import validate
from junitparser import Failure, JUnitXml
from markdown_it import MarkdownIt
from rich.cells import cell_len
from rich.console import Console
from test_html import Page

from sinkctl.report.benched import (
    LIMIT,
    case_rows,
    case_table,
    change_table,
    changes_first,
    facts,
    fit_table,
    share_bars,
    size_picture,
    summary,
)
from sinkctl.report.console import print_table, render
from sinkctl.report.github import annotations, bigger, smaller
from sinkctl.report.html import html
from sinkctl.report.junit import junit
from sinkctl.report.parts import Table
from sinkctl.report.printable import visible
from sinkctl.report.runs_compared import compared
from sinkctl.result.bench import Machine, Row
from sinkctl.result.bench_words import worse
from sinkctl.tasks.bench.verdict import verdict

# What github-action-benchmark documents of customSmallerIsBetter and customBiggerIsBetter.
ENTRIES = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["name", "unit", "value"],
        "properties": {
            "name": {"type": "string"},
            "unit": {"type": "string"},
            "value": {"type": "number"},
            "range": {"type": "string"},
            "extra": {"type": "string"},
        },
        "additionalProperties": False,
    },
}


def printed(show, shown, width: int = 80, encoding: str = "utf-8") -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    show(shown, Console(file=stream, width=width))
    stream.flush()
    return stream.buffer.getvalue().decode(encoding)


def table(case: str) -> Table:
    return case_table(dict(case_rows(detail()))[case], detail())


def rendered(page: str) -> str:
    return MarkdownIt("commonmark").enable("table").render(page)


def cells(page: str) -> list[str]:
    """The words of every cell of a rendered table."""
    return [unescape(re.sub("<[^>]*>", "", cell)) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", page)]


def test_a_case_shows_interval_share_of_the_limit_and_how_many_times_as_fast_it_is():
    shown = table("stream")
    assert shown.columns == ["size", "way", "tok/s", "95 % interval", "of the limit", "sinkctl faster", "added memory"]
    assert shown.rows[:3] == [
        ["4+252", "sinkctl", "35,900", "35,541 … 36,259", "36 % of matmul", "", "512 MiB"],
        ["4+252", "stock", "17,950", "17,770 … 18,130", "18 % of matmul", "2.00×", "512 MiB"],  # 35,900 / 17,950
        ["4+252", "published", "143.6", "142.2 … 145", "–", "250×", "512 MiB"],
    ]
    assert shown.rows[4][5] == "1.50×"
    assert shown.legend == ["limit: matmul 741 TFLOP/s, measured in this run"]
    times = table("decode")
    assert times.columns[2] == "ms a token"
    assert [row[4:] for row in times.rows] == [
        ["64 % of copy", "", "14 GiB"],  # 3.2 / 5, on the device
        ["80 % of copy", "0.800×", "512 MiB"],
    ]


def test_what_is_not_timed_has_neither_interval_nor_limit():
    memory = table("memory")
    assert memory.columns == ["size", "way", "peak memory", "sinkctl smaller"]
    assert memory.rows[1] == ["8192,dense", "dense", "6 GiB", "3.00×"]
    assert table("tasks").rows == [["4+252,arc", "sinkctl", "0.625"]]


def test_changes_that_failed_come_first_and_intervals_turn_with_their_sign():
    shown = change_table(detail().changes)
    assert shown.rows[0] == [
        "stream.4+252.tokens_per_s", "41,200 tok/s", "35,350 tok/s", "worse by 14.2 % (13.2 … 15.2)",
        "worse by 16.2 %", "10 %", "FAILED, reran",
    ]  # fmt: skip
    assert [row[3] for row in shown.rows[1:]] == [
        "better by 3.0 % (2.0 … 4.0)", "worse by 0.50 % (−0.50 … 1.5)", "worse by 2.5 %",
    ]  # fmt: skip
    assert [row[6] for row in shown.rows[1:]] == ["passed", "–", "passed"]


@pytest.mark.parametrize(
    ("percent", "said"),
    [(0.0, "the same"), (1234.5, "worse by 1,234.5 %"), (-0.25, "better by 0.25 %"),
     (float("inf"), "worse by ∞ %"), (float("nan"), "–")],
)  # fmt: skip
def test_exact_changes_are_said_without_an_interval(percent, said):
    assert worse(percent, percent, percent) == said


def test_perplexities_and_answers_have_tables_of_their_own():
    quality = [exact("quality", f"{s}+{256 - s}", dict(sinks=s, window=256 - s, cache=256), "sinkctl", "perplexity",
                     value, "perplexity", "lower") for s, value in ((0, 45.0), (4, 20.25))]  # fmt: skip
    quality.append(exact("quality", "dense", {"cache": "all"}, "dense", "perplexity", 41.0, "perplexity", "lower"))
    asked = exact("retrieval", "4+252,back=20", {"policy": "4+252", "back": 20}, "sinkctl", "exact_match", 35.0, "%",
                  "higher").model_copy(update={"detail": dict(asked=20, inside="yes", inside_asked=20, inside_exact=7,
                                                              outside_asked=0, outside_exact=0)})  # fmt: skip
    report = bench_result(rows=[*rows(), *quality, asked])
    assert not {"quality", "retrieval"} & {title for title, _ in case_rows(report.bench)}
    for shown in (printed(render, report, 100), html(report, {}), summary(report, {})):
        for said in ("Quality", "20.25", "41.00", "Retrieval", "35"):
            assert said in shown, said


def test_growth_is_an_exponent_with_its_interval():
    assert fit_table(detail().fits).rows == [
        ["stream", "sinkctl", "seconds ∝ tokens^1.02 (0.99 … 1.05)", "8,192 … 32,768"],
        ["memory", "dense", "bytes ∝ tokens^1.00", "8,192 … 32,768"],
    ]
    assert dict(facts(detail()))["hardware"] == "matmul 741 TFLOP/s, copy 4.27 TB/s"


def test_the_verdict_names_what_failed_and_each_peer_at_the_first_size():
    said = verdict(detail())
    assert said[0] == "1 of 3 gates failed."
    assert said[1].startswith("stream.4+252.tokens_per_s is worse by 14.2 % (13.2 … 15.2")
    assert said[2:] == [
        "stream at 4+252: 2.00× as fast as stock, 250× as fast as published.",
        "decode at 4+252: 0.800× as fast as static.",
        "memory at 8192: dense takes 3.00× as much memory.",
        f"{HOSTILE} at 1024: 4.00× as fast as {HOSTILE}.",
    ]
    holds = [change("a.b.ms", 2.0, limit=10.0), change("a.c.ms", 20.0)]
    assert verdict(detail(rows=[], changes=holds)) == ["1 gate holds."]
    assert verdict(detail(rows=[], changes=[])) == []


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_terminal_of_any_width_shows_numbers_and_verdicts(width, encoding):
    shown = printed(render, bench_result(), width, encoding)
    assert max(map(cell_len, shown.splitlines())) <= width
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    for said in ("35,900", "FAILED", "1 of 3 gates failed.", "12.3 s"):
        assert said in shown, said
    if width >= 80:
        dots, signs = ("...", "x") if encoding == "ascii" else ("…", "×")
        for said in (f"worse by 14.2 % (13.2 {dots} 15.2)", f"250{signs}", "36 % of matmul"):
            assert said in shown, said
        assert ("seconds ~ tokens" in shown) == (encoding == "ascii")
        assert not re.search(r"\\xd7|\\u(2026|2212|221d|2013)", shown)


def test_a_suite_without_a_model_or_a_single_row_is_a_whole_report():
    bare = bench_result(rows=[], changes=[], fits=[], rates=[]).model_copy(update={"model": None})
    assert "12.3 s" in printed(render, bare)
    assert Page(html(bare, {})).tags >= {"h1", "pre"}
    assert "sinkctl bench: ci" in summary(bare, {})


def test_the_page_shows_every_number_and_its_pictures():
    page = html(bench_result(), {})
    for said in ("36 % of matmul", "250×", "14.2 % (13.2 … 15.2)", "seconds ∝ tokens^1.02", "FAILED, reran", "2.13.0",
                 "741 TFLOP/s", "stream: tok/s by window", "memory: peak memory by tokens", "rounds: 7"):  # fmt: skip
        assert said in page, said
    ids = [value for name, value in Page(page).attributes if name == "id"]
    assert len(ids) == len(set(ids))
    # stream and memory by size; stream and decode beside the limit
    assert (page.count("<svg"), page.count('<table class="bars">')) == (2, 2)


def test_no_name_becomes_a_tag_or_an_attribute_of_the_page():
    by_hostile = [timed("stream", HOSTILE, {HOSTILE: n}, HOSTILE, "ms", n, floor=0.5, floor_of="copy") for n in (1, 9)]
    page = html(bench_result(suite=HOSTILE, rows=[*rows(), *by_hostile]), {HOSTILE: HOSTILE})
    found = Page(page)
    assert not found.tags & {"script", "b", "red", "img", "link"}
    assert not [value for name, value in found.attributes if name != "xmlns" and "//" in (value or "")]
    assert "\x1b" not in page
    assert "\u202e" not in page


def test_pictures_have_a_line_a_way_and_shares_of_the_limit():
    cases = dict(case_rows(detail()))
    stream = size_picture("stream", cases["stream"])
    assert stream.lines == {
        "sinkctl": [(252.0, 35_900.0), (1020.0, 30_000.0)], "stock": [(252.0, 17_950.0), (1020.0, 20_000.0)],
        "published": [(252.0, 143.6)],
    }  # fmt: skip
    assert stream.log_y, "35,900 beside 143.6"
    memory = size_picture("memory", cases["memory"])
    assert memory.lines == {"sinkctl": [(8192.0, 2.0), (32768.0, 2.0)], "dense": [(8192.0, 6.0), (32768.0, 18.0)]}
    assert (memory.x_title, memory.y_title) == ("tokens", "peak memory, GiB")
    assert size_picture("decode", cases["decode"]) is None
    assert [(bar.label, bar.said, bar.share) for bar in share_bars("decode", cases["decode"]).bars] == [
        ("4+252 sinkctl, copy", "64 %", 80.0), ("4+252 static, copy", "80 %", 100.0)
    ]  # fmt: skip


def test_a_ladder_of_two_sizes_has_a_line_for_each_value_of_the_other():
    ladder = [
        timed("decode", f"4+{w},rows={r}", dict(window=w, rows=r), "sinkctl", "ms_per_token", float(w * r))
        for w in (252, 508, 1020) for r in (1, 8)
    ]  # fmt: skip
    picture = size_picture("decode", ladder)
    assert picture.lines["sinkctl, rows=8"] == [(252.0, 2016.0), (508.0, 4064.0), (1020.0, 8160.0)]
    assert set(picture.lines) == {"sinkctl, rows=1", "sinkctl, rows=8"}


def test_markdown_keeps_foreign_words_words():
    page = summary(bench_result(suite=HOSTILE), {"cpu": HOSTILE})
    assert "\x1b" not in page
    found = rendered(page)
    assert Page(found).tags <= {"h2", "h3", "p", "ul", "li", "pre", "code", "table", "thead", "tbody", "tr", "th", "td"}
    assert visible(HOSTILE) in cells(found)
    assert {"36 % of matmul", "250×", "FAILED, reran", "worse by 14.2 % (13.2 … 15.2)"} <= set(cells(found))
    titles = re.findall("<h3>(.*?)</h3>", found)
    assert [title.split()[0] for title in titles[:2]] == ["Changes", "stream"]
    assert titles[-3:] == ["Growth", "Notes", "How it was measured"]


def test_a_summary_that_would_be_too_long_is_cut_by_rows_and_says_so():
    many = [change(f"{'a' * 200}.{i}.ms", 0.1, limit=5.0) for i in range(9000)]
    failed = change("z.1.ms", 9.0, limit=5.0, failed=True)
    page = summary(bench_result(changes=[*many, failed]), {})
    assert LIMIT / 4 < len(page.encode()) <= LIMIT
    first, lost = re.search(r"cut to the ([\d,]+) first rows, ([\d,]+) more are in result", page).groups()
    assert int(first.replace(",", "")) + int(lost.replace(",", "")) == 9001
    assert "z.1.ms" in cells(rendered(page[:20_000]))


def test_junit_has_a_case_for_each_gate_and_a_failure_for_each_broken_one():
    thresholds = [("decode.4+252.ms_per_token<=6", True, ""), (f"{HOSTILE}>=1", False, f"{HOSTILE} is 0")]
    parsed = JUnitXml.fromstring(junit(bench_result(suite=HOSTILE), thresholds).encode())
    (suite,) = parsed
    assert suite.name == f"sinkctl.{visible(HOSTILE)}"
    assert (suite.tests, suite.failures, suite.errors, suite.time) == (5, 2, 0, 12.34)
    broken = {case.name: case.result[0] for case in suite if case.result}
    assert set(broken) == {"stream.4+252.tokens_per_s", visible(f"{HOSTILE}>=1")}
    assert all(isinstance(failure, Failure) for failure in broken.values())
    assert broken[visible(f"{HOSTILE}>=1")].message == visible(f"{HOSTILE} is 0")
    assert "worse by 14.2 % (13.2 … 15.2" in broken["stream.4+252.tokens_per_s"].message


def test_junit_without_gates_says_what_was_measured():
    (suite,) = JUnitXml.fromstring(junit(bench_result(changes=[change("a.b.ms", 50.0)])).encode())
    assert [case.name for case in suite] == [
        f"{case}: measured" for case in ("stream", "decode", "memory", visible(HOSTILE), "tasks")
    ]
    assert (suite.tests, suite.failures) == (5, 0)


def test_the_files_of_github_action_benchmark_split_by_direction():
    small, big = (json.loads(write(bench_result())) for write in (smaller, bigger))
    for entries in (small, big):
        validate(entries, ENTRIES)
    assert [entry["name"] for entry in big] == [
        "stream.4+252.tokens_per_s", "stream.4+1020.tokens_per_s", "tasks.4+252,arc.acc"
    ]  # fmt: skip
    assert [entry["name"] for entry in small] == [
        "decode.4+252.ms_per_token", "memory.8192.peak_memory", "memory.32768.peak_memory", f"{HOSTILE}.1024.ms"
    ]  # fmt: skip
    assert big[0] == {
        "name": "stream.4+252.tokens_per_s", "unit": "tok/s", "value": 35_900.0, "range": "35,541 … 36,259",
        "extra": "cpu, 2 of it, float32\n36 % of matmul\n2.00× stock\n250× published",
    }  # fmt: skip
    assert "range" not in small[1]


def test_annotations_read_back_as_they_were():
    lines = annotations(bench_result(suite=HOSTILE), [f"100% {HOSTILE}\r\nis %0A", "other"])
    assert len(lines) == 2
    for line, message in zip(lines, [f"100% {HOSTILE}\r\nis %0A", "other"], strict=True):
        assert "\n" not in line
        read = map(unquote, re.fullmatch(r"::error title=([^:,]*)::(.*)", line).groups())
        assert list(read) == [f"sinkctl bench: {HOSTILE}", message]
    assert lines[0].endswith("is %250A")


def test_saved_results_stand_side_by_side():
    slow = [timed("stream", "4+252", {}, "sinkctl", "tokens_per_s", 18_000.0),
            timed("decode", "4+252", {}, "sinkctl", "ms_per_token", 5.02),
            exact("tasks", "a", {}, "sinkctl", "acc", 0.5, "", "higher")]  # fmt: skip
    other = detail().machine.model_dump() | {"device": "H200", "versions": {"torch": "2.11.0"}}
    second = bench_result(rows=slow, machine=Machine(**other))
    shown = compared([bench_result(), bench_result(), second], ["a", "b", "c"])
    assert shown.columns == ["measurement", "a", "b", "c", "change"]
    by_name = {row[0]: row[1:] for row in shown.rows}
    assert by_name["stream.4+252.tokens_per_s"] == ["35,900 tok/s", "35,900 tok/s", "18,000 tok/s", "worse by 49.9 %"]
    assert by_name["decode.4+252.ms_per_token"][-1] == "worse by 0.40 % ~"
    assert by_name["stream.4+1020.tokens_per_s"][-2:] == ["–", "–"]
    assert by_name["tasks.a.acc"][0] == "–"
    assert shown.legend[1:] == [
        "~ the 95 % intervals of the two overlap",
        "not the same device: cpu, 2 of it (a), cpu, 2 of it (b), H200 (c)",
        "not the same torch: 2.13.0 (a), 2.13.0 (b), 2.11.0 (c)",
    ]
    assert "worse by 49.9 %" in printed(print_table, compared([bench_result(), second], ["runs/a", "runs/b"]), 60)


def test_whole_commands_stand_in_a_table_of_their_own_by_phase():
    def row(label: str, metric: str, *seconds: float) -> Row:
        size = dict(zip(("command", "caches"), label.split(","), strict=True))
        found = exact("startup", label, size, "sinkctl", metric, seconds[0], "s", "lower")
        return found.model_copy(update={"samples": [list(seconds)]})

    rows = [row("stream,empty", "seconds", 6.0, 9.0, 7.0), row("stream,empty", "own", 6.5),
            row("stream,empty", "compiling", 0.0), row("stream,empty", "first", 0.25)]  # fmt: skip
    ((title, shown),) = changes_first(detail(rows=rows, changes=[], fits=[]))
    assert title == "Startup"
    assert shown.columns == ["seconds", "clock", "in all", "first", "clock's range"]  # nothing was compiled
    assert shown.rows == [["stream,empty", "7.00", "6.50", "0.25", "6.00 … 9.00"]]
    assert "6.00 … 9.00" in html(bench_result(rows=rows), {})
