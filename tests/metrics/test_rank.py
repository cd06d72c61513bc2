"""Rank against planted directions and the singular values."""

import math

import pytest
import torch
from torch.nn.functional import one_hot
from views_by_hand import block_view, real

from sinkctl.metrics.rank import rank
from sinkctl.metrics.views import BlockView, Scope


@pytest.mark.parametrize("channels", [8, 100])
def test_orthogonal_directions_used_alike_are_counted(channels):
    h = one_hot(torch.arange(40) % 5, channels)[None] * 3.0
    assert rank(BlockView(h, real([40])), Scope())[0].tolist() == pytest.approx([math.log(5), 5, 0.2])


def test_a_massive_token_collapses_the_stream_to_one_direction():
    h = torch.randn(1, 30, 16, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    h[0, 0, 3] = 1e4
    assert rank(BlockView(h, real([30])), Scope())[0].tolist() == pytest.approx([0, 1, 1], abs=1e-4)


@pytest.mark.parametrize("lengths", [(9, 17), (5, 7)])
def test_shares_are_those_of_squared_singular_values(lengths):
    view = block_view(lengths)
    for n, length in enumerate(lengths):
        p = torch.linalg.svdvals(view.h_NTC[n, :length]).square()
        p = p / p.sum()
        entropy = -(p * p.log()).sum().item()
        assert rank(view, Scope())[n].tolist() == pytest.approx([entropy, math.exp(entropy), p[0].item()])


def test_a_stream_not_finite_has_no_rank_and_spoils_no_other():
    view = block_view()
    view.h_NTC[0, 3, 3] = torch.inf
    assert rank(view, Scope()).isnan().tolist() == [[True] * 3, [False] * 3]
