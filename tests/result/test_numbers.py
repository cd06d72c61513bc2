"""Numbers as people read them."""

import math

import pytest

from sinkctl.result import numbers


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (512, "512"), (999.9, "1k"), (10_000, "10k"), (2_000_000, "2M"), (7_240_000_000, "7.24B")],
)
def test_counts_are_short_and_never_read_1e3(value, shown):
    assert numbers.short_count(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0 B"), (1023, "0.999 KiB"), (2**20, "1 MiB"), (1.5 * 2**30, "1.5 GiB"), (2000 * 2**40, "2e+03 TiB")],
)
def test_bytes_are_in_binary_units(value, shown):
    assert numbers.memory(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1.0, "1.000"),
        (29.118, "29.12"),
        (612.34, "612.3"),
        (12345.6, "12,346"),
        (3.2e9, "3.20e9"),
        (float("inf"), "∞"),
        (float("nan"), "–"),
        (None, "–"),
    ],
)
def test_perplexity_keeps_about_four_digits(value, shown):
    assert numbers.perplexity(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.531, "0.531 s"), (59.99, "1 min 00 s"), (725, "12 min 05 s"), (11070, "3 h 04 min")]
)
def test_durations_carry_over_to_the_next_unit(seconds, shown):
    assert numbers.duration(seconds) == shown


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (numbers.percent(75.62), "75.6 %"), (numbers.percent(0.253), "0.25 %"), (numbers.percent(0), "0.0 %"),
        (numbers.percent(math.nan), "–"), (numbers.change(1.541), "+154.1 %"), (numbers.change(-0.0042), "-0.42 %"),
        (numbers.change(-1e-9), "+0.00 %"), (numbers.points(0.0341), "3.4"), (numbers.points(0.118), "12"),
        (numbers.points(0.00123), "0.12"), (numbers.points(None), "–"),
    ],
)  # fmt: skip
def test_percentages_have_a_space_a_sign_and_an_error_in_points(said, shown):
    assert said == shown
