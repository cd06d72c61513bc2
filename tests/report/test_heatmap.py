"""Heatmaps, read back as XML."""

import re
import xml.etree.ElementTree as ET

import pytest
from measured_example import HOSTILE, input_score

from sinkctl.report.axis import log_axis, number_axis
from sinkctl.report.heatmap import LEVELS, colour, level
from sinkctl.report.measured_maps import ALPHA, alpha_map, first_token_map, head_classes, pooled, surface_map
from sinkctl.result.measure import HeadMap, Surface

SVG = "{http://www.w3.org/2000/svg}"


def sheets(drawing: str) -> list[dict[tuple[int, int], str]]:
    """Colour class by (row, column), sheet by sheet."""
    found = []
    for group in ET.fromstring(drawing).iter(f"{SVG}g"):
        if (group.get("class") or "").startswith("sheet "):
            found.append({})
            for path in group:
                for x, y, run in re.findall(r"M(\d+) (\d+)h(\d+)", path.get("d")):
                    found[-1] |= {(int(y), int(x) + i): path.get("class") for i in range(int(run))}
    return found


def titles(drawing: str) -> list[str]:
    return [path.findtext(f"{SVG}title") for path in ET.fromstring(drawing).iter(f"{SVG}path") if len(path)]


def light(number: int) -> float:
    red, green, blue = (int(colour(number)[i : i + 2], 16) for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_every_head_is_one_cell_and_what_is_missing_is_none():
    score = input_score()
    first, second, third = sheets(alpha_map(score, score.heads, "alpha"))
    assert first == {(0, 0): "h59", (0, 1): "h2", (1, 0): "h32", (1, 1): "h16"}
    assert second == {(0, 0): "h0", (0, 1): "h63"}
    assert len(third) == 4
    assert sheets(first_token_map(score, score.heads, "first")) == [first]


def test_a_cell_says_its_layer_its_head_and_its_values():
    score = input_score()
    assert titles(alpha_map(score, score.heads, "alpha"))[:2] == [
        "layer 0 head 0: 0.93 0.00 0.10",
        "layer 0 head 1: 0.04 1.00 0.10",
    ]
    assert titles(alpha_map(score, score.heads, "alpha"))[3] == "layer 2 head 1: 0.25 – 0.10"
    assert titles(alpha_map(score, score.heads, "alpha", hover=False)) == []


def test_more_is_darker_without_exception():
    assert [level(at) for at in (-1.0, 0.0, 0.5, 1.0, 2.0)] == [0, 0, 32, 63, 63]
    lights = [light(number) for number in range(LEVELS)]
    assert lights == sorted(lights, reverse=True)
    assert min(a - b for a, b in zip(lights, lights[1:], strict=False)) > 0.2
    assert [ALPHA.share(value) for value in (0, 0.25, 1)] == [0, 0.25, 1]


def test_the_dark_palette_is_the_light_one_turned_round():
    drawing = alpha_map(input_score(), input_score().heads, "alpha")
    style = drawing[drawing.rindex("<style>") :]
    paper, dark = (dict(re.findall(r"\.(h\d+){stroke:(#\w+)}", part)) for part in style.split("@media")[:2])
    assert len(paper) == len(dark) == LEVELS
    assert [paper[f"h{i}"] for i in range(LEVELS)] == [dark[f"h{LEVELS - 1 - i}"] for i in range(LEVELS)]


def test_heads_of_a_class_share_a_colour_that_the_legend_names():
    score = input_score()
    drawing = head_classes(score, score.heads, "classes")
    assert sheets(drawing) == [{(0, 0): "class0", (0, 1): "class1", (1, 0): "class2", (1, 1): "class3"}]
    words = [text.text for text in ET.fromstring(drawing).iter(f"{SVG}text")]
    assert {"sink-dominated", "local", "diffuse", "retrieval-like"} <= set(words)


def test_tokens_from_outside_stay_text():
    root = ET.fromstring(surface_map(input_score().surface, "surface"))
    assert not [element for element in root.iter() if element.tag.endswith(("script", "red"))]
    assert any("alert" in (title or "") for title in titles(ET.tostring(root, encoding="unicode")))
    assert HOSTILE not in "".join(root.itertext())


def test_a_surface_is_joined_by_its_largest():
    size = [[float(100 * y + x) for x in range(300)] for y in range(130)]
    tokens, channels, values = pooled(Surface(layer=0, tokens=["x"] * 130, channels=list(range(0, 600, 2)), size=size))
    assert (len(tokens), len(channels), len(values), len(values[0])) == (44, 100, 44, 100)
    assert (tokens[1], channels[1], values[0][0]) == ("3", 6, 202.0)
    assert max(map(max, values)) == size[-1][-1]


def test_a_surface_without_a_positive_number_is_not_drawn():
    assert surface_map(Surface(layer=0, tokens=["a"], channels=[0], size=[[0.0]]), "surface") is None


def test_rows_of_unequal_length_are_drawn_as_they_are():
    heads = HeadMap(keys=[0], layers=[0, 1], alpha=[[[0.1], [0.2, 0.3]]], classes=[["sink"], ["sink", "local"]])
    drawing = alpha_map(input_score(), heads, "alpha")
    assert len(sheets(drawing)[0]) == 3
    assert titles(drawing) == ["layer 0 head 0: 0.10", "layer 1 head 0: 0.20", "layer 1 head 1: 0.30"]


def test_eighty_layers_of_sixty_four_heads_and_nine_keys_stay_small():
    values = [
        [[((7 * k + 3 * y + x) % 64) / 63 for x in range(64)] for y in range(80)] for k in range(9)
    ]  # no two alike
    heads = HeadMap(keys=list(range(9)), layers=list(range(80)), alpha=values, classes=[["sink"] * 64] * 80)
    drawing = alpha_map(input_score(), heads, "alpha")
    assert len(drawing.encode()) < 1.5e6
    assert [len(sheet) for sheet in sheets(drawing)] == [80 * 64] * 9


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (0.0, 1.0), (-3.0, 7.5), (0.0, 1e6), (1e-9, 2e-9)])
def test_ticks_of_a_number_axis_lie_on_it(low, high):
    axis = number_axis(low, high, 6)
    assert 1 <= len(axis.ticks) <= 7
    assert all(0 <= (at - axis.low) / (axis.high - axis.low) <= 1 for at, _ in axis.ticks)


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (1e-12, 2e-12), (0.01, 3.0), (1e-9, 1e9)])
def test_ticks_of_a_log_axis_lie_on_it(low, high):
    axis = log_axis(low, high, 6)
    assert 1 <= len(axis.ticks) <= 7
    assert all(axis.low <= at <= axis.high for at, _ in axis.ticks)
