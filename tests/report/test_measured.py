"""A sink measurement in words, on a terminal and on a page."""

import io
import re

import pytest
from measured_example import HOSTILE, checkpoint, input_score, layer, measure_detail, measure_result, patches
from rich.cells import cell_len
from rich.console import Console
from test_html import Page

from sinkctl.report.compared import compare_table
from sinkctl.report.console import render
from sinkctl.report.html import html
from sinkctl.report.layer_rows import layer_table
from sinkctl.report.measured import (
    class_line,
    cost_table,
    expert_table,
    found_table,
    patch_line,
    predicted_table,
    rate_table,
)
from sinkctl.report.measured_page import on_common_scales
from sinkctl.report.measured_pictures import emergence, input_pictures
from sinkctl.report.parts import Table
from sinkctl.result import numbers
from sinkctl.result.measure import CostLine, SinkShare
from sinkctl.result.schema import Result
from sinkctl.result.words import ranges


def printed(report: Result, width: int = 80, encoding: str = "utf-8") -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    render(report, Console(file=stream, width=width))
    stream.flush()
    return stream.buffer.getvalue().decode(encoding)


def column(table: Table, name: str) -> list[str]:
    return [row[table.columns.index(name)] for row in table.rows]


def named(table: Table, name: str) -> list[str]:
    return next(row[1:] for row in table.rows if row[0] == name)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (float("nan"), "–"), (float("inf"), "∞"), (0.0, "0"), (2.4e-7, "2.40e-7"), (0.0625, "0.0625"),
     (3.2, "3.20"), (99.99, "100"), (999.7, "1,000"), (33510.0, "33,510"), (778240.0, "778,240"), (4.71e6, "4.71e6")],
)  # fmt: skip
def test_numbers_keep_three_figures(value, shown):
    assert numbers.figures(value) == shown


def test_rates_are_percent_and_small_ones_keep_two_digits():
    table = rate_table(measure_detail(checkpoint("demo")))
    assert table.columns[:5] == ["input", "Sink₁ ε=0.3", "Sink₂ ε=0.3", "Sink₃ ε=0.3", "Sink₁ ε=0.5"]
    assert table.rows[0] == ["natural, BOS", "73.6 %", "0.25 %", "–", "53.5 %", "0.920", "2e-7", "100 × 64"]
    assert column(table, "largest α₁") == ["0.920", "–"]
    assert [row[:2] for row in rate_table(measure_detail()).rows[1:3]] == [
        ["one", "random, no BOS"],
        ["two", "natural, BOS"],
    ]


def test_a_layer_without_attention_has_dashes_and_says_why():
    table = layer_table(input_score())
    assert column(table, "layer") == ["0", "1", "2"]
    assert column(table, "attention")[1] == "linear attention: no softmax map"
    assert column(table, "sink heads") == ["50.0 %", "–", "52.0 %"]
    assert column(table, "‖h₁‖ /rest") == ["100", "–", "100"]
    assert column(table, "‖k₁‖ /rest") == ["0.250", "–", "0.250"]
    assert column(table, "top-1 |h|") == ["3,024", "–", "3,026"]
    assert column(table, "its channel") == ["447", "–", "447"]


def test_columns_that_say_nothing_are_left_out():
    plain = layer_table(input_score(layers=[layer(0, massive=None), layer(1, massive=None)]))
    assert not {"mass learned", "gate", "attention", "top-1 |h|", "its token"} & set(plain.columns)
    assert "mass learned" in layer_table(input_score(layers=[layer(0, learned_mass=0.2)])).columns


def test_what_was_taken_away_is_compared_with_its_own_baseline():
    table = cost_table(checkpoint())
    assert column(table, "cost") == ["+87.2 % ± 3.4", "1,750×"]
    assert column(table, "KL, nats") == ["0.113", "–"]
    assert column(table, "how") == ["no query sees them", "the largest element"]


def test_found_tokens_experts_classes_and_patches_are_said_with_their_numbers():
    score = input_score()
    assert found_table(score).rows[1] == ["“.”", "12.5 %", "0.456", "7/40", "17.5", "2.1"]
    assert found_table(score, 5).legend == ["and 1 more"]
    assert expert_table(score).rows == [["2", "5", "100.0 %", "12.5 %"]]
    assert class_line(score) == "24 sink-dominated, 1 local, 1 diffuse, 1 retrieval-like"
    said = "CLS 45.1; registers 30.2; patches: median 42.0, largest 287, 2.4 % above 150"
    assert patch_line(patches()).endswith(said)
    assert ranges([7, 1, 2, 3]) == "1–3, 7"


def test_tokens_that_a_quantizer_must_keep_are_told_with_the_setting_that_keeps_them():
    table = predicted_table(input_score())
    assert table.rows[0] == ["the first token", "100", "99", "0"]
    assert table.legend == [
        "places: massive in channels 7–8, 447 after layer 1; --kv-keep first:1 keeps all but 6 of them, --kv-keep "
        "predicted those too",
        "precision 93.4 % (99 of 106), recall 33.0 % (99 of 300); besides the first token, precision 0.0 % (0 of 6), "
        "no sinks",
    ]
    assert predicted_table(input_score(), 1).legend[-1] == "and 1 more"
    assert predicted_table(input_score(predicted=None)) == Table(table.columns, [], legend=[])


def test_few_checkpoints_are_columns_and_many_are_rows():
    two, five = compare_table(measure_detail()), compare_table(measure_detail(*map(checkpoint, "abcde")))
    assert two.columns == ["", "one", "two", "Δ"]
    assert named(two, "Sink₁ natural, BOS") == ["73.6 %", "73.6 %", "+0.0 points"]
    assert named(two, "drain at the strongest sink") == ["2.06", "2.06", "+0.00 %"]
    assert named(two, "sink-dominated heads") == ["88.9 %", "88.9 %", "+0.0 points"]
    assert named(two, "cost, first 4 masked") == ["+87.2 % ± 3.4", "+87.2 % ± 3.4", "+0.0 points"]
    assert [row[0] for row in five.rows] == list("abcde")
    assert five.columns[0] == "checkpoint"
    assert sorted(five.columns[1:]) == sorted(row[0] for row in two.rows)


def test_two_checkpoints_differ_in_points_of_percentages_and_in_percent_of_other_numbers():
    weaker = input_score(alpha_max=0.46, sinks=[SinkShare(epsilon=0.3, key=0, percent=53.61)])
    cheaper = CostLine(name="first 4 masked", what="", perplexity=6.0, baseline=5.0)
    table = compare_table(measure_detail(checkpoint("one"), checkpoint("two", inputs=[weaker], costs=[cheaper])))
    assert named(table, "Sink₁ natural, BOS")[-1] == "-20.0 points"
    assert named(table, "largest α₁")[-1] == "-50.0 %"
    assert named(table, "cost, first 4 masked")[-1] == "-67.2 points"  # 20 % after 87.2 %


def test_an_input_or_ablation_that_one_checkpoint_lacks_is_a_dash():
    bare = checkpoint("two", inputs=[input_score()], costs=[])
    table = compare_table(measure_detail(checkpoint("one"), bare))
    assert named(table, "Sink₁ random, no BOS") == ["73.6 %", "–", "–"]
    assert named(table, "cost, first 4 masked") == ["+87.2 % ± 3.4", "–", "–"]


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("checkpoints", [1, 2, 6])
def test_the_terminal_shows_whole_rows_at_any_width(width, encoding, checkpoints):
    labels = ["organisation/model-70m step 143000", *"bcdef"][:checkpoints]
    shown = printed(measure_result(*map(checkpoint, labels)), width, encoding)
    assert max(map(cell_len, shown.splitlines())) <= width
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "nan" not in shown.lower()
    assert "73.6 %" in shown
    assert ("50.0 %" in shown) == (checkpoints == 1)
    layers = [line for line in shown.splitlines() if re.match(r" +[012] .* softmax|.* linear a", line)]
    assert len(layers) == (3 if checkpoints == 1 else 0)


def test_the_verdict_comes_last_and_layers_first():
    shown = printed(measure_result(checkpoint()))
    places = [
        shown.index(said) for said in ("Layers", "Sinks other", "Ablations", "Sink rates", "note:", "4+252 holds")
    ]
    assert places == sorted(places)
    assert "12.3 s" in shown


def test_no_token_becomes_a_tag_an_attribute_or_a_script():
    hostile = input_score(HOSTILE, kind=HOSTILE, patches=patches())
    page = html(measure_result(checkpoint(HOSTILE, inputs=[hostile]), checkpoint("two")), {})
    found = Page(page)
    assert not found.tags & {"script", "red", "img", "link"}
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert not [value for name, value in found.attributes if name != "xmlns" and "//" in (value or "")]
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "nan" not in re.findall(r"[\d.]*\w+", page.lower())


def test_the_page_shows_every_number_of_every_input():
    page = html(measure_result(checkpoint("demo", inputs=[input_score(patches=patches())])), {})
    for said in ("73.6 %", "0.25 %", "3,026", "77.2", "0.0625", "33,510", "0.830", "+87.2 % ± 3.4", "0.456", "7/40",
                 "CLS 45.1", "layer 0 head 0: 0.93 0.00 0.10", "layer 2 head 1: 0.25 – 0.10", "token 17",
                 "sink-dominated: more than half"):  # fmt: skip
        assert said in page, said


def test_ids_are_unique_and_every_button_has_its_label_and_its_sheet():
    page = html(measure_result(), {})
    found = Page(page)
    ids = [value for name, value in found.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    labelled = [value for name, value in found.attributes if name == "for"]
    assert sorted(labelled) == sorted(re.findall(r'<input type="radio" name="[^"]+" id="([^"]+)"', page))
    assert len(labelled) == 4 * 3  # two checkpoints of two inputs, three keys
    assert page.count('checked="checked"') == 4
    for key in range(3):
        shown = f".pick{key}:checked~figure .{'ka' if key == 0 else 'k' + 'abc'[key]}63" if key else ".a63"
        assert f"{shown}{{background:var(--h63)}}" in page


def test_the_same_measurement_gives_the_same_page():
    assert html(measure_result(), {}) == html(measure_result(), {})


def test_the_smallest_measurements_are_whole_reports():
    bare = input_score(heads=None, surface=None, layers=[], sinks=[], classes={}, found=[], queries=[], first_tokens=[],
                       massive_layers=[], balance_error=None, alpha_max=None)  # fmt: skip
    for checkpoints in (
        [checkpoint(inputs=[])],
        [checkpoint(inputs=[bare], costs=[], mixing=[])],
        [checkpoint(inputs=[])] * 2,
    ):
        report = measure_result(*checkpoints)
        assert "4+252 holds" in printed(report)
        assert Page(html(report, {})).tags >= {"h1", "pre"}


def test_pictures_of_one_name_share_their_scale():
    low, high = layer(0, norm_first=2.0, norm_rest=1.0), layer(0, norm_first=5000.0, norm_rest=40.0)
    detail = measure_detail(*(checkpoint(inputs=[input_score(layers=[only])]) for only in (low, high)))
    for checkpoint_ in detail.checkpoints:
        drawn = {picture.name: picture for picture in on_common_scales(detail)[id(checkpoint_.inputs[0])]}
        assert drawn["norms-residual"].y_range == (1.0, 5000.0)


def test_lines_leave_out_what_is_not_a_number():
    drawn = {picture.name: picture.lines for picture in input_pictures(input_score(), 0.3)}
    assert drawn["layers"]["α₁ > 0.3"] == [(0.0, 0.5), (2.0, 0.52)]
    assert drawn["norms-residual"]["others"] == [(0.0, 30.0), (1.0, 9.0), (2.0, 30.0)]
    assert drawn["queries"] == {"token 1": [(1.0, 1.0), (5.0, 0.7), (36.5, 0.6)], "token 2": [(5.0, 0.1)]}


def test_emergence_follows_the_steps_and_needs_three_of_them():
    def at(step: int | None, percent: float):
        return checkpoint(
            f"step {step}", step, inputs=[input_score(sinks=[SinkShare(epsilon=0.3, key=0, percent=percent)])]
        )

    grown = emergence(measure_detail(at(4000, 80.0), at(0, 0.0), at(8, 5.0)))
    assert grown.log_x
    assert grown.lines == {"natural, BOS": [(4.0, 0.0), (8.0, 5.0), (4000.0, 80.0)]}
    assert "Step 0" in grown.caption
    assert not emergence(measure_detail(at(10, 1.0), at(20, 2.0), at(30, 3.0))).log_x
    assert emergence(measure_detail(at(10, 1.0), at(20, 2.0))) is None
    assert emergence(measure_detail(at(10, 1.0), at(20, 2.0), at(None, 3.0))) is None
