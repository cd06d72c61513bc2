"""Bounded summaries of an unbounded stream."""

import numpy as np
import pytest

from sinkctl.tasks.stream.passages import KEPT, STRIDE, TOKENS, Passages
from sinkctl.tasks.stream.summary import BINS, Curve, Thinned, Total


def test_a_curve_keeps_its_sums_while_its_bins_join():
    nll = np.random.default_rng(0).normal(3, 1, 100_000).astype(np.float32)
    nll[::17] = np.nan
    curve = Curve()
    for start in range(0, len(nll), 999):
        curve.add(start, nll[start : start + 999])
    points = curve.points()
    assert len(points) <= BINS
    assert sum(p.tokens for p in points) == np.isfinite(nll).sum()
    for point in points[::50]:
        assert point.nll == pytest.approx(np.nanmean(nll[point.first : point.end].astype(np.float64)), rel=1e-12)


def test_totals_add_in_float64():
    total = Total()
    for _ in range(100):
        total.add(np.full(100_000, 0.1, np.float32))
    assert total.nll == pytest.approx(1e7 * float(np.float32(0.1)), rel=1e-12)


def test_a_thinned_list_stays_short_and_even():
    thinned = Thinned()
    for item in range(10_000):
        thinned.offer(item)
    assert len(thinned.items) <= BINS
    assert {b - a for a, b in zip(thinned.items, thinned.items[1:], strict=False)} == {thinned.stride}


def test_passages_are_the_best_windows_however_the_stream_is_cut():
    draw = np.random.default_rng(1)
    nll = draw.exponential(2, 5000)
    places = [np.arange(5000), 3 * np.arange(5000), np.arange(5000) // 10, np.zeros(5000)]
    found = []
    for size in (5000, 137, 16):
        passages = Passages()
        for start in range(0, 5000, size):
            passages.add(nll[start : start + size], *(p[start : start + size] for p in places))
        found.append(passages.found)
    assert found[0] == found[1] == found[2]
    means = {s: nll[s : s + TOKENS].mean() for s in range(0, 5000 - TOKENS + 1, STRIDE)}
    assert found[0][0]["nll"] == pytest.approx(max(means.values()))
    starts = sorted(p["index"] for p in found[0])
    assert len(starts) == KEPT
    assert min(b - a for a, b in zip(starts, starts[1:], strict=False)) >= TOKENS
    assert found[0][0]["byte"] == 3 * found[0][0]["index"]


def test_lines_are_ranked_whole_however_the_stream_is_cut_and_short_ones_count_as_eight_tokens():
    draw = np.random.default_rng(2)
    sizes = draw.integers(1, 40, 300)
    line = np.repeat(np.arange(300), sizes)
    nll = draw.exponential(2, len(line))
    places = [np.arange(len(line)), 3 * np.arange(len(line)), line, np.zeros(len(line))]
    found = []
    for size in (len(line), 137, 16):
        passages = Passages("line", top=7, warm=64)
        for start in range(0, len(line), size):
            passages.add(nll[start : start + size], *(p[start : start + size] for p in places))
        found.append(passages.ended())
    assert found[0] == found[1] == found[2]
    starts = np.cumsum(sizes) - sizes
    means = {n: nll[line == n].sum() / max(8, sizes[n]) for n in range(300) if starts[n] >= 64}
    best = sorted(means, key=means.get, reverse=True)[:7]
    assert [p["line"] for p in found[0]] == best
    assert [p["nll"] for p in found[0]] == pytest.approx([means[n] for n in best])
    assert [p["tokens"] for p in found[0]] == [sizes[n] for n in best]


def test_a_line_without_an_end_is_taken_in_parts():
    passages = Passages("line")
    ones = np.ones(700)
    for _ in range(6):
        passages.add(ones, *[ones] * 4)
    assert [p["tokens"] for p in passages.found] == [2048, 2048]
    assert sorted(p["tokens"] for p in passages.ended()) == [4200 - 4096, 2048, 2048]
