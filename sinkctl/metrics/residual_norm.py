"""Norms of the residual stream.

N samples, T tokens.
"""

import torch
from torch import Tensor

from sinkctl.metrics.means import first_and_rest, precise_norm
from sinkctl.metrics.views import BlockView, Scope


def residual_norms(view: BlockView, scope: Scope) -> Tensor:
    """‖h_1‖, and the mean of ‖h_t‖ over t > 1: [N, 2] (Gu et al. 2024, arXiv 2410.10781)."""
    return view.own.once("norms", lambda: first_and_rest(_norm(view), view.rest_NT))


def norm_ratio(view: BlockView, scope: Scope) -> Tensor:
    """‖h_1‖ / mean of ‖h_t‖ over t > 1: [N]."""
    first_N, rest_N = residual_norms(view, scope).unbind(-1)
    return first_N / rest_N


def patch_norms(view: BlockView, scope: Scope) -> Tensor:
    """‖h_t‖ of every token: [N, T], NaN past the end (Darcet et al. 2023, arXiv 2309.16588)."""
    return _norm(view).masked_fill(~view.real_NT, torch.nan)


def _norm(view: BlockView) -> Tensor:
    return view.own.once("norm", lambda: precise_norm(view.h_NTC))
