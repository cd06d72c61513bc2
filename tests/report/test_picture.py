"""The SVG pictures, read back as XML."""

import itertools
import math
import re
import xml.etree.ElementTree as ET

import pytest
from example_result import curve, policy

from sinkctl.report.picture import memory_svg, svg
from sinkctl.result.stream import CurvePoint, MemorySample

SVG = "{http://www.w3.org/2000/svg}"


def texts(root: ET.Element) -> dict[str, tuple[float, float]]:
    """Every upright text and where it stands."""
    return {t.text: (float(t.get("x")), float(t.get("y"))) for t in root.iter(f"{SVG}text") if t.get("x")}


def line(root: ET.Element, label: str) -> list[tuple[float, float]]:
    """The points of the line called `label`."""
    group = next(g for g in root.iter(f"{SVG}g") if g.findtext(f"{SVG}title") == label)
    path = next(p for p in group if (p.get("class") or "").startswith("line"))
    return [tuple(map(float, pair.split())) for pair in re.split("[ML]", path.get("d"))[1:]]


def test_a_perplexity_lies_where_the_log_axis_says():
    root = ET.fromstring(svg([policy("4+252", curve([1.0, 10.0, 100.0, 1000.0], stretch=5000))]))
    places = texts(root)
    (_, bottom), (_, top) = places["10"], places["100"]
    drawn = [y for _, y in line(root, "4+252")]
    centre = 4.5  # a tick's text stands on a base line this far below its value
    assert drawn[1] == pytest.approx(bottom - centre, abs=0.1)
    assert drawn[2] == pytest.approx(top - centre, abs=0.1)
    assert drawn[1] - drawn[2] == pytest.approx(drawn[2] - drawn[3], abs=0.2)


def test_a_position_lies_where_the_token_axis_says_and_the_context_is_marked():
    root = ET.fromstring(svg([policy("dense", curve([10.0] * 20), extrapolates_from=1000)]))
    places = texts(root)
    zero, end = places["0"][0], places["2k"][0]
    assert [x for x, _ in line(root, "dense")][:2] == pytest.approx(
        [zero + (end - zero) * share for share in (50 / 2000, 150 / 2000)], abs=0.1
    )
    guide = next(p for p in root.iter(f"{SVG}path") if p.get("class") == "guide")
    assert float(re.match(r"M([\d.]+)", guide.get("d"))[1]) == pytest.approx((zero + end) / 2, abs=0.1)
    assert "context 1000" in places


def test_lines_that_end_together_keep_their_labels_apart():
    labels = [f"policy {i}" for i in range(8)]
    root = ET.fromstring(svg([policy(label, curve([10.0, 10.0])) for label in labels]))
    heights = sorted(texts(root)[label][1] for label in labels)
    assert min(b - a for a, b in itertools.pairwise(heights)) >= 16
    looks = {
        (g.get("class"), next(p.get("class") for p in g if "line" in (p.get("class") or "")))
        for g in root.iter(f"{SVG}g")
    }
    assert len(looks) == len(labels)


def test_labels_from_outside_stay_text():
    label = '<script>"&\x1b'
    root = ET.fromstring(svg([policy(label, curve([10.0, 12.0]))]))
    assert '<script>"&\\x1b' in texts(root)
    assert not [element for element in root.iter() if element.tag.endswith("script")]


@pytest.mark.parametrize(
    "points",
    [
        [],
        [CurvePoint(first=0, end=1, nll=0.0, tokens=1)],
        [CurvePoint(first=0, end=1, nll=math.nan, tokens=1)],
        [CurvePoint(first=0, end=0, nll=1.0, tokens=0)],
        [CurvePoint(first=0, end=9, nll=math.inf, tokens=9)],
    ],
    ids=["no points", "one token", "not a number", "no tokens", "infinite"],
)
def test_the_smallest_curves_draw_finite_pictures(points):
    drawing = svg([policy("4+252", points, perplexity=None, common_perplexity=None)])
    assert "4+252" in "".join(texts(ET.fromstring(drawing)))
    assert not re.search(r"\b(nan|inf)\b", drawing)


def test_memory_starts_at_zero_so_that_flat_looks_flat():
    root = ET.fromstring(memory_svg([MemorySample(tokens=t, process_bytes=2**30, device_bytes=2**29) for t in (0, 10)]))
    places = texts(root)
    zero, whole = places["0 B"][1], places["1 GiB"][1]
    assert line(root, "process")[0][1] == pytest.approx(whole - 4.5, abs=0.1)
    assert line(root, "device")[0][1] == pytest.approx((zero + whole) / 2 - 4.5, abs=0.1)
