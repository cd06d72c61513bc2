"""Outliers that make activations hard to quantize.

N samples, T tokens, C channels.
"""

import torch
from torch import Tensor

from sinkctl.metrics.means import precise
from sinkctl.metrics.views import BlockView, Scope

DEVIATIONS = 6  # an outlier is further from the mean than this many standard deviations


def outliers(view: BlockView, scope: Scope) -> Tensor:
    """max |h|; kurtosis, mean (h − µ)⁴ / (σ⁴ + 1e-6); share of elements beyond 6 σ: [N, 3].

    µ and σ over all elements, σ unbiased, 3 not subtracted (Bondarenko et al. 2023, arXiv 2306.12929).
    """
    real_NT1, h_NTC = view.real_NT[..., None], precise(view.h_NTC)
    h_NTC = h_NTC.masked_fill(~real_NT1, 0.0)
    elements_N = view.length_N * h_NTC.shape[-1]
    mean_N11 = (h_NTC.sum((1, 2)) / elements_N)[:, None, None]
    square_NTC = (h_NTC - mean_N11).square().masked_fill(~real_NT1, 0.0)
    variance_N = square_NTC.sum((1, 2)) / (elements_N - 1)
    kurtosis_N = square_NTC.square().sum((1, 2)) / elements_N / (variance_N.square() + 1e-6)
    far_NTC = square_NTC > DEVIATIONS**2 * variance_N[:, None, None]
    return torch.stack([h_NTC.abs().amax((1, 2)), kurtosis_N, far_NTC.sum((1, 2)) / elements_N], dim=-1)
