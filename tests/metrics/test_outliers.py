"""Outliers against the published code's formula on the flattened sample."""

import pytest
import torch
from views_by_hand import block_view, real

from sinkctl.metrics.outliers import outliers
from sinkctl.metrics.views import BlockView, Scope


def test_kurtosis_is_that_of_the_flattened_sample():
    view = block_view()
    view.h_NTC[0, 2, 3], view.h_NTC[1, 0, 1] = 40.0, -90.0
    for n, length in enumerate((9, 17)):
        x = view.h_NTC[n, :length].flatten()
        kurtosis = (x - x.mean()).pow(4).mean() / (x.std().pow(4) + 1e-6)
        assert outliers(view, Scope())[n].tolist() == pytest.approx([x.abs().max().item(), kurtosis.item(), 1 / len(x)])


def test_signs_have_a_kurtosis_of_one_and_normal_numbers_of_three():
    signs = torch.tensor([1.0, -1.0]).repeat(1, 50, 40)
    normal = torch.randn(1, 400, 500, generator=torch.Generator().manual_seed(0))
    assert outliers(BlockView(signs, real([50])), Scope())[0].tolist() == pytest.approx([1, 1, 0], abs=2e-3)
    assert outliers(BlockView(normal, real([400])), Scope())[0, 1] == pytest.approx(3, abs=0.05)
