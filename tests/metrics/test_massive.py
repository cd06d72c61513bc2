"""Massive activations put in by hand, and the two thresholds at their edges."""

import torch
from views_by_hand import real

from sinkctl.metrics.massive import massive
from sinkctl.metrics.views import BlockView, Scope


def test_planted_elements_are_found_where_they_are():
    h = torch.rand(2, 20, 16) / 10
    h[0, 3, 5], h[0, 0, 7], h[0, 4, 1] = -2500.0, 900.0, 130.0
    h[1, 12:] = 1e6  # past the end
    found = massive(BlockView(h.to(torch.bfloat16), real([20, 12])), Scope())
    bf16 = h.to(torch.bfloat16).float().abs()
    assert found[0].tolist() == [2496, 900, 130, bf16[0].flatten().median().item(), 3, 3, 5, 0]
    assert found[1, 0] == bf16[1, :12].max()
    assert found[1, 3] == bf16[1, :12].flatten().median()
    assert found[1, 4] == 0


def test_both_thresholds_must_hold_the_size_strictly():
    def count(element, median):
        h = torch.full((1, 5, 4), median)
        h[0, 1, 2] = element
        return massive(BlockView(h, real([5])), Scope())[0, 4].item()

    assert count(100.0, 1e-3) == 0
    assert count(100.1, 1e-3) == 1
    assert count(500.0, 0.5) == 1
    assert count(499.0, 0.5) == 0


def test_the_median_is_the_lower_one_and_elements_not_finite_are_only_counted():
    h = torch.tensor([[[1.0, 2.0, 3.0], [4.0, torch.inf, -torch.nan]]])
    assert massive(BlockView(h, real([2])), Scope())[0].tolist() == [4, 3, 2, 2, 0, 1, 0, 2]
    broken = massive(BlockView(h * torch.nan, real([2])), Scope())[0]
    assert broken[[0, 1, 2, 3, 5, 6]].isnan().all()
    assert broken[[4, 7]].tolist() == [0, 6]
