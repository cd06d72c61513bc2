"""What of a curve is drawn: a moving mean that says so, and never moves a step."""

import math

import pytest
from example_result import curve, policy

from sinkctl.report.curves import captions, contexts, lines
from sinkctl.result.stream import CurvePoint


def test_a_short_curve_is_drawn_as_measured():
    drawn = lines([policy("4+252", curve([10.0, 20.0]))])[0]
    assert [(dot.x, math.exp(dot.y)) for dot in drawn.dots] == [(50, pytest.approx(10)), (150, pytest.approx(20))]
    assert drawn.measured == []
    assert "moving mean" not in " ".join(captions([policy("4+252", curve([10.0, 20.0]))]))


def test_a_long_curve_is_averaged_in_nats_and_says_so():
    noisy = policy("4+252", curve([10.0, 40.0] * 100))  # 200 points: the mean is over 5
    drawn = lines([noisy])[0]
    two_and_three = [math.log(10) * a + math.log(40) * b for a, b in ((0.6, 0.4), (0.4, 0.6))]
    assert [dot.y for dot in drawn.dots[100:102]] == pytest.approx(two_and_three)
    assert len(drawn.measured) == 200
    assert "moving mean of the NLL over 5 neighbouring points" in " ".join(captions([noisy]))


def test_the_moving_mean_does_not_reach_across_the_context_boundary():
    broken = policy("dense", curve([20.0] * 100 + [2000.0] * 100), extrapolates_from=10_000)
    drawn = [math.exp(dot.y) for dot in lines([broken])[0].dots]
    assert drawn == pytest.approx([20.0] * 100 + [2000.0] * 100)


def test_very_long_curves_are_joined_by_their_token_means():
    uneven = [
        CurvePoint(first=i * 4, end=i * 4 + 4, nll=3.0 if i % 2 else 1.0, tokens=3 if i % 2 else 1) for i in range(800)
    ]
    drawn = lines([policy("4+252", uneven)])[0]
    assert len(drawn.dots) == 400
    assert drawn.dots[0] == pytest.approx((4, (1.0 * 1 + 3.0 * 3) / 4))


def test_absurd_and_missing_values_are_clipped_or_left_out_and_said():
    points = [
        CurvePoint(first=i, end=i + 1, nll=nll, tokens=1) for i, nll in enumerate([2.0, 900.0, math.inf, math.nan])
    ]
    broken = [policy("dense", points)]
    assert [dot.y for dot in lines(broken)[0].dots] == pytest.approx([2.0, math.log(1e4), math.log(1e4)])
    said = " ".join(captions(broken))
    assert "above 10,000 are drawn at 10,000" in said
    assert "1 point without a number is left out" in said


def test_a_context_the_text_never_reached_is_not_drawn():
    assert contexts([policy("dense", curve([10.0] * 5), extrapolates_from=512)]) == []
    assert contexts([policy("dense", curve([10.0] * 6), extrapolates_from=512)]) == [512]
