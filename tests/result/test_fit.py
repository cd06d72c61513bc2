"""Exponents of planted power laws."""

import numpy as np
import pytest
from bench_rows import row

from sinkctl.result.fit import fits

RNG = np.random.default_rng(0)


def ladder(law, key="tokens", metric="ms", sizes=(512, 1024, 2048, 4096), noise=0.02, timed=True, **more):
    def samples(size: int) -> list[list[float]]:
        return [[law(size) * float(np.exp(RNG.normal(0, noise))) for _ in range(9)] for _ in range(2)]

    return [row(samples(n), metric=metric, size={"sinks": 4, key: n, **more}, timed=timed) for n in sizes]


def test_a_planted_exponent_is_found_within_its_interval():
    (fit,) = fits(ladder(lambda n: 3e-6 * n**1.7), seed=0)
    assert (fit.case, fit.way, fit.metric, fit.over) == ("stream", "sinkctl", "seconds", "tokens")
    assert fit.sizes == [512, 1024, 2048, 4096]
    assert fit.low < 1.7 < fit.high
    assert fit.high - fit.low < 0.1
    assert fit.exponent == pytest.approx(1.7, abs=0.05)


def test_without_noise_the_slope_is_exact():
    (fit,) = fits(ladder(lambda n: 5.0 * n**2, noise=0), seed=0)
    assert (fit.low, fit.exponent, fit.high) == pytest.approx((2, 2, 2))


@pytest.mark.parametrize(
    ("key", "metric", "law", "exponent"),
    [
        ("tokens", "tokens_per_s", lambda n: 4e4, 1),  # a constant rate: linear in the tokens
        ("tokens", "tokens_per_s", lambda n: 4e7 / n, 2),
        ("window", "tokens_per_s", lambda n: 4e7 / n, 1),  # seconds a token
        ("window", "ms_per_token", lambda n: 7.0, 0),
        ("rows", "ms_per_token", lambda n: 7.0, 0),  # a step of all rows
        ("tokens", "peak_memory", lambda n: 1e9, 0),
    ],
)
def test_time_is_of_all_tokens_where_they_grow_and_of_one_where_anything_else_does(key, metric, law, exponent):
    (fit,) = fits(ladder(law, key, metric, noise=0, timed=metric != "peak_memory"), seed=0)
    assert fit.exponent == pytest.approx(exponent, abs=1e-9)
    assert fit.metric == ("bytes" if metric == "peak_memory" else "seconds")


def test_there_is_no_exponent_of_two_sizes_or_of_sizes_that_differ_twice():
    assert fits(ladder(lambda n: n, sizes=(1, 2)), seed=0) == []
    twice = [r for chunk in (1, 2, 4) for r in ladder(lambda n: n, "window", chunk=chunk)]
    assert fits(twice, seed=0) == []
    assert fits(ladder(lambda n: n, metric="perplexity"), seed=0) == []
