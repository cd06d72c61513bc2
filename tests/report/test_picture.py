"""Line pictures as SVG of a page, read back as XML."""

import math
import re
import xml.etree.ElementTree as ET

import pytest
from example_result import curve, policy

from sinkctl.report.curves import memory_picture, perplexity_picture
from sinkctl.report.draw import INK, inline
from sinkctl.report.parts import LinePicture
from sinkctl.result.stream import CurvePoint, MemorySample


def drawn(picture: LinePicture) -> ET.Element:
    return ET.fromstring(inline(picture, "one"))


def ticks(root: ET.Element) -> dict[str, tuple[float, float]]:
    """Where the text of every label stands."""
    return {t.text: (float(t.get("x")), float(t.get("y"))) for t in root.iter("text") if t.get("x")}


def marks(root: ET.Element) -> list[tuple[str, float, float]]:
    """What every mark says, and where it is."""
    return [(m.findtext("title"), float(m.get("x")), float(m.get("y"))) for m in root.iter("use") if len(m)]


def test_a_perplexity_lies_where_the_log_axis_says_and_says_itself():
    root = drawn(perplexity_picture([policy("4+252", curve([1.0, 10.0, 100.0, 1000.0], stretch=5000))]))
    places, found = ticks(root), marks(root)
    assert [said for said, _, _ in found] == [
        "4+252: 1 at 2,500", "4+252: 10 at 7,500", "4+252: 100 at 12,500", "4+252: 1,000 at 17,500"
    ]  # fmt: skip
    (_, bottom), (_, top) = places["10"], places["100"]
    assert found[1][2] - found[2][2] == pytest.approx(bottom - top, abs=0.1)
    assert found[1][2] - found[2][2] == pytest.approx(found[2][2] - found[3][2], abs=0.1)


def test_a_position_lies_where_the_token_axis_says_and_the_context_is_marked():
    root = drawn(perplexity_picture([policy("dense", curve([10.0] * 20), extrapolates_from=1000)]))
    places, found = ticks(root), marks(root)
    zero, end = places["0"][0], places["1,600"][0]
    assert [x for _, x, _ in found][:2] == pytest.approx([zero + (end - zero) * at / 1600 for at in (50, 150)], abs=0.2)
    assert places["context 1000"][0] == pytest.approx(zero + (end - zero) * 1000 / 1600, abs=0.2)


def test_colours_are_those_of_the_page_and_ids_its_own():
    pictures = [perplexity_picture([policy(f"policy {i}", curve([10.0 + i] * 3)) for i in range(3)])] * 2
    pages = [inline(picture, f"p{number}") for number, picture in enumerate(pictures)]
    for number in range(3):
        assert f"var(--c{number})" in pages[0]
    assert not re.search(r"#[0-9a-f]{6}", pages[0]), INK
    ids = [found for page in pages for found in re.findall(r' id="([^"]+)"', page)]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', pages[0])) <= {(one, "") for one in ids}
    assert pages[0] == inline(pictures[0], "p0")


def test_labels_from_outside_stay_text():
    root = drawn(perplexity_picture([policy('<script>"&\x1b $x$', curve([10.0, 12.0]))]))
    assert marks(root)[0][0].startswith('<script>"&\\x1b $x$: 10 at')
    assert not [element for element in root.iter() if element.tag.endswith("script")]


@pytest.mark.parametrize(
    "points",
    [
        [CurvePoint(first=0, end=1, nll=0.0, tokens=1)],
        [CurvePoint(first=0, end=9, nll=math.inf, tokens=9)],
        [CurvePoint(first=0, end=9, nll=1.0, tokens=9), CurvePoint(first=9, end=12, nll=math.nan, tokens=3)],
    ],
    ids=["one token", "infinite", "not a number"],
)
def test_the_smallest_curves_draw_finite_pictures(points):
    drawing = inline(perplexity_picture([policy("4+252", points, perplexity=None, common_perplexity=None)]), "one")
    assert "4+252" in drawing
    assert not re.search(r"\b(nan|inf)\b", drawing)


def test_without_a_score_there_is_no_picture():
    for points in ([], [CurvePoint(first=0, end=1, nll=math.nan, tokens=1)]):
        assert perplexity_picture([policy("4+252", points)]) is None


def test_memory_starts_at_zero_so_that_flat_looks_flat():
    samples = [MemorySample(tokens=t, process_bytes=2**30, device_bytes=2**29) for t in (0, 10)]
    root = drawn(memory_picture(samples, "Memory"))
    places, heights = ticks(root), {said.split(":")[0]: y for said, _, y in marks(root)}
    zero, one = places["0"][1], places["1"][1]
    assert (zero - one) == pytest.approx(2 * (heights["device"] - heights["process"]), abs=0.2)
    assert "device: at most 0.5 GiB" in memory_picture(samples, "Memory").caption


def test_numbers_too_close_for_round_ones_keep_their_ticks_apart():
    near = LinePicture("n", "n", "x", "y", {"a": [(1.0, 100.001), (2.0, 100.002)]}, log_y=True)
    labels = [text for text in ticks(drawn(near)) if text.startswith("100")]
    assert len(labels) == len(set(labels)) >= 2
