"""Norms put in by hand."""

import pytest
import torch
from views_by_hand import real

from sinkctl.metrics.residual_norm import norm_ratio, patch_norms, residual_norms
from sinkctl.metrics.views import BlockView, Scope


def test_norms_are_those_put_in_even_where_their_squares_exceed_half_precision():
    norm_NT = torch.tensor([[5000.0, 5, 10, 15, 7], [10, 20, 99, 99, 99]])
    h = torch.tensor([0.6, 0, -0.8]) * norm_NT[..., None]
    view = BlockView(h.to(torch.float16), real([5, 2]))
    assert residual_norms(view, Scope()).tolist() == [pytest.approx([5000, 9.25], 1e-3), pytest.approx([10, 20], 1e-3)]
    assert norm_ratio(view, Scope()).tolist() == pytest.approx([5000 / 9.25, 0.5], 1e-3)
    assert patch_norms(view, Scope())[0].tolist() == pytest.approx(norm_NT[0].tolist(), 1e-3)
    assert patch_norms(view, Scope())[1].tolist() == pytest.approx([10, 20] + [torch.nan] * 3, 1e-3, nan_ok=True)
