"""Outliers that make activations hard to quantize.

N samples.
"""

from torch import Tensor

from sinkctl.kernels.activations import outliers as spread
from sinkctl.metrics.views import BlockView, Scope

DEVIATIONS = 6  # an outlier is further from the mean than this many standard deviations


def outliers(view: BlockView, scope: Scope) -> Tensor:
    """max |h|; kurtosis, mean (h − µ)⁴ / (σ⁴ + 1e-6); share of elements beyond 6 σ: [N, 3].

    µ and σ over all elements, σ unbiased, 3 not subtracted (Bondarenko et al. 2023, arXiv 2306.12929).
    """
    return spread(view.h_NTC, view.real_NT, DEVIATIONS)
