"""Massive activations: few elements of the residual stream, thousands of times its median.

N samples, T tokens, C channels, E massive elements.
"""

from torch import Tensor

from sinkctl.kernels.activations import is_massive
from sinkctl.kernels.activations import massive as largest
from sinkctl.metrics.means import precise
from sinkctl.metrics.views import BlockView, Scope


def massive(view: BlockView, scope: Scope) -> Tensor:
    """Top-1, top-2, top-3 and median |h|; massive elements; token and channel of top-1; not-finite elements: [N, 8].

    Massive: |h| > `massive_size` and |h| ≥ `massive_ratio` · median (Sun et al. 2024, arXiv 2402.17762). Elements not
    finite are left out of all but their count. The median is torch's, the lower of two.
    """
    return largest(view.h_NTC, view.real_NT, scope.massive_size, scope.massive_ratio)


def massive_places(view: BlockView, scope: Scope, median_N: Tensor) -> Tensor:
    """Sample, token and channel of every massive element, [E, 3]; `median_N`: of |h|, as `massive` gives it."""
    size_NTC = precise(view.h_NTC.abs())
    found_NTC = is_massive(size_NTC, median_N[:, None, None].to(size_NTC), scope.massive_size, scope.massive_ratio)
    return (found_NTC & size_NTC.isfinite() & view.real_NT[..., None]).nonzero()
