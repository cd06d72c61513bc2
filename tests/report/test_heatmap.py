"""Heatmaps as tables of cells."""

import re

from measured_example import HOSTILE, checkpoint, input_score, measure_result

from sinkctl.report.cells import (
    LEVELS,
    alpha_map,
    class_map,
    colour,
    level,
    pooled,
    rules,
    surface_map,
)
from sinkctl.report.html import html
from sinkctl.result.measure import HeadMap, Surface

KEYS = ["token 1", "token 2", "token 17"]


def looks(drawn) -> list[list[str]]:
    return [[cell.look for cell in row.cells] for row in drawn.rows]


def light(number: int) -> float:
    red, green, blue = (int(colour(number)[i : i + 2], 16) for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_every_head_is_one_cell_and_what_is_missing_is_none():
    score = input_score()
    assert looks(alpha_map(score.heads, "α", KEYS)) == [
        ["a59 kb0 kc6", "a2 kb63 kc6"], ["a32 kc6", "a16 kc6"]
    ]  # fmt: skip
    assert looks(alpha_map(score.heads, "one", [""], hover=False)) == [["a59", "a2"], ["a32", "a16"]]


def test_a_cell_says_its_layer_its_head_and_its_values():
    heads = input_score().heads
    said = [cell.said for row in alpha_map(heads, "α", KEYS).rows for cell in row.cells]
    assert said[:2] == ["layer 0 head 0: 0.93 0.00 0.10", "layer 0 head 1: 0.04 1.00 0.10"]
    assert said[3] == "layer 2 head 1: 0.25 – 0.10"
    assert {cell.said for row in alpha_map(heads, "α", KEYS, hover=False).rows for cell in row.cells} == {""}


def test_more_is_darker_without_exception():
    assert [level(at) for at in (-1.0, 0.0, 0.5, 1.0, 2.0)] == [0, 0, 32, 63, 63]
    lights = [light(number) for number in range(LEVELS)]
    assert lights == sorted(lights, reverse=True)
    assert min(a - b for a, b in zip(lights, lights[1:], strict=False)) > 0.2


def test_the_dark_palette_is_the_light_one_turned_round():
    paper, dark = (dict(re.findall(r"--(h\d+):(#\w+)", part)) for part in rules(1).split("@media")[:2])
    assert len(paper) == len(dark) == LEVELS
    assert [paper[f"h{i}"] for i in range(LEVELS)] == [dark[f"h{LEVELS - 1 - i}"] for i in range(LEVELS)]


def test_heads_of_a_class_share_a_colour_that_the_legend_names():
    drawn = class_map(input_score().heads)
    assert looks(drawn) == [["c0", "c1"], ["c2", "c3"]]
    assert dict(drawn.legend) == {"c0": "sink-dominated", "c1": "local", "c2": "diffuse", "c3": "retrieval-like"}


def test_a_surface_says_its_largest_and_tokens_from_outside_stay_text():
    drawn = surface_map(input_score().surface)
    assert "largest 3,026, from channel 0" in drawn.rows[0].said
    assert looks(drawn)[0] == ["a63", "a23"]  # on a logarithmic scale from 0.5 to 3,026
    assert HOSTILE not in html(measure_result(), {})


def test_a_surface_is_joined_by_its_largest():
    size = [[float(100 * y + x) for x in range(300)] for y in range(130)]
    tokens, channels, values = pooled(Surface(layer=0, tokens=["x"] * 130, channels=list(range(0, 600, 2)), size=size))
    assert (len(tokens), len(channels), len(values), len(values[0])) == (44, 100, 44, 100)
    assert (tokens[1], channels[1], values[0][0]) == ("3", 6, 202.0)
    assert max(map(max, values)) == size[-1][-1]


def test_a_surface_without_a_positive_number_is_not_drawn():
    assert surface_map(Surface(layer=0, tokens=["a"], channels=[0], size=[[0.0]])) is None


def test_rows_of_unequal_length_are_drawn_as_they_are():
    heads = HeadMap(keys=[0], layers=[0, 1], alpha=[[[0.1], [0.2, 0.3]]], classes=[["sink"], ["sink", "local"]])
    drawn = alpha_map(heads, "α", ["token 1"])
    assert [len(row.cells) for row in drawn.rows] == [1, 2]
    assert [cell.said for row in drawn.rows for cell in row.cells] == [
        "layer 0 head 0: 0.10", "layer 1 head 0: 0.20", "layer 1 head 1: 0.30"
    ]  # fmt: skip


def test_eighty_layers_of_sixty_four_heads_and_nine_keys_stay_small():
    values = [
        [[((7 * k + 3 * y + x) % 64) / 63 for x in range(64)] for y in range(80)] for k in range(9)
    ]  # no two alike
    heads = HeadMap(keys=list(range(9)), layers=list(range(80)), alpha=values, classes=[["sink"] * 64] * 80)
    score = input_score(heads=heads, layers=[], surface=None)
    page = html(measure_result(checkpoint(inputs=[score])), {})
    assert len(page.encode()) < 1.8e6
    assert page.count("layer 79 head 63: ") == 2  # its values, its class
