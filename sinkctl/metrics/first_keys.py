"""The first columns of the attention map, query by query.

N samples, H query heads, T queries, K leading keys.
"""

import torch
from torch import Tensor

from sinkctl.metrics.queries import leading
from sinkctl.metrics.views import AttentionView, Scope


def first_keys(view: AttentionView, scope: Scope) -> Tensor:
    """A_tk on the first `sinks` keys, mean over heads: [N, T, K]; NaN past the end, and before k if causal.

    A key out of the window receives 0.
    """
    a_NTK = leading(view, scope).mean(1)
    a_NTK = torch.nn.functional.pad(a_NTK, (0, max(scope.sinks - a_NTK.shape[2], 0)))
    return a_NTK.masked_fill(
        view.shared.once(("missing", view.visible.causal, scope), lambda: _missing(view, scope)), torch.nan
    )


def _missing(view: AttentionView, scope: Scope) -> Tensor:
    key_K = torch.arange(scope.sinks, device=view.real_NT.device)
    there_NTK = view.real_NT[..., None] & (key_K < view.length_N[:, None, None])
    if view.visible.causal:
        there_NTK = there_NTK & (key_K <= view.place_T[:, None])
    return ~there_NTK
