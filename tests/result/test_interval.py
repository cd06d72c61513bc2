"""Bootstrap intervals against what is known in closed form, and against simulated truth."""

from math import comb

import numpy as np

from sinkctl.result.interval import median_interval, ratio_interval


def test_the_interval_of_one_process_ends_at_the_ranks_that_the_binomial_says():
    # A redrawn median is at most the k-th smallest of n when n // 2 + 1 or more of n draws are: Bin(n, k / n).
    for n in (5, 7, 9, 21):

        def at_most(k: int, n: int = n) -> float:
            return sum(comb(n, j) * (k / n) ** j * (1 - k / n) ** (n - j) for j in range(n // 2 + 1, n + 1))

        rank = next(k for k in range(1, n + 1) if at_most(k) >= 0.025)
        samples = [[float(2**k) for k in range(1, n + 1)]]
        assert median_interval(samples, seed=0) == (2.0**rank, 2.0 ** (n + 1 - rank))


def test_the_interval_of_a_median_holds_it_about_as_often_as_promised():
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(300):
        low, high = median_interval([np.exp(rng.normal(0, 1, 31)).tolist()], seed)
        held += low <= 1 <= high
    assert 0.90 <= held / 300 <= 0.97  # ranks 11 and 21 of 31: 93 % in closed form


def test_processes_that_differ_widen_the_interval_and_rounds_alone_would_miss_the_truth():
    rng = np.random.default_rng(1)
    held, alone = 0, 0
    for seed in range(100):
        samples = (rng.normal(0, 1, (10, 1)) + rng.normal(0, 0.2, (10, 9))).tolist()
        low, high = median_interval(samples, seed)
        held += low <= 0 <= high
        low, high = median_interval([[x for process in samples for x in process]], seed)
        alone += low <= 0 <= high
    assert 0.88 <= held / 100 <= 0.99
    assert alone / 100 < 0.75


def test_processes_of_unequal_length_count_by_their_rounds():
    assert median_interval([[1.0] * 9, [1.0]], seed=0) == (1, 1)
    low, high = median_interval([[1.0, 1.0, 1.0], [5.0]], seed=0)
    assert (low, high) == (1, 5)  # both processes drawn the same: (1/2)² each


def test_a_ratio_of_medians_holds_the_true_ratio_about_as_often_as_promised():
    rng = np.random.default_rng(2)
    held = 0
    for seed in range(300):
        now, before = (np.exp(rng.normal(shift, 0.1, 21)).tolist() for shift in (np.log(1.2), 0))
        low, high = ratio_interval([now], [before], seed)
        held += low <= 1.2 <= high
    assert 0.90 <= held / 300 <= 0.99


def test_the_same_seed_gives_the_same_interval():
    samples = [np.random.default_rng(3).normal(10, 1, 8).tolist()]
    assert median_interval(samples, 5) == median_interval(samples, 5)
