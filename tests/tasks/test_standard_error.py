"""Standard errors against a closed form and a bootstrap."""

import math

import numpy as np
import pytest
import torch

from sinkctl.tasks.measure.standard_error import blocks, ratio_error


def test_it_is_that_of_the_clusters_means():
    change_KT = torch.tensor([[0.1, 0.3], [0.6, 0.6], [0.5, 0.3]])  # means 0.2, 0.6, 0.4: s = 0.2
    assert ratio_error(change_KT) == pytest.approx(math.exp(0.4) * 0.2 / math.sqrt(3), rel=1e-6)
    assert ratio_error(change_KT[:1]) is None
    assert ratio_error(torch.full((4, 5), 0.7)) == pytest.approx(0, abs=1e-7)


def test_it_agrees_with_a_bootstrap_of_clusters_and_not_of_tokens():
    rng = np.random.default_rng(0)
    change_KT = rng.normal(0.4, 0.2, (40, 1)) + rng.normal(0, 0.5, (40, 100))  # tokens of a cluster are alike
    drawn = rng.integers(40, size=(4000, 40))
    bootstrap = np.exp(change_KT.mean(1)[drawn].mean(1)).std()
    found = ratio_error(torch.from_numpy(change_KT))
    assert found == pytest.approx(bootstrap, rel=0.06)
    of_tokens = math.exp(change_KT.mean()) * change_KT.std() / math.sqrt(change_KT.size)
    assert found > 3 * of_tokens


def test_blocks_leave_the_rest_out_and_are_two_at_least():
    assert blocks(torch.arange(10.0), 3).tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert blocks(torch.arange(5.0), 100).tolist() == [[0, 1], [2, 3]]
