"""The first columns of the attention map, query by query.

N samples, H query heads, T queries, K leading keys.
"""

import torch
from torch import Tensor

from sinkctl.metrics.views import AttentionView, Scope

TILE = 1 << 14  # queries at a time


def first_keys(view: AttentionView, scope: Scope) -> Tensor:
    """A_tk on the first `sinks` keys, mean over heads: [N, T, K]; NaN past the end, and before k if causal.

    A key out of the window receives 0.
    """
    T, K = view.real_NT.shape[1], scope.sinks
    tiles = [view.attention(slice(t, t + TILE), slice(0, K)).mean(1) for t in range(0, T, TILE)]
    a_NTK = torch.nn.functional.pad(torch.cat(tiles, dim=1), (0, max(K - T, 0)))
    place_T, key_K = (torch.arange(n, device=a_NTK.device) for n in (T, K))
    there_NTK = view.real_NT[..., None] & (key_K < view.length_N[:, None, None])
    if view.visible.causal:
        there_NTK = there_NTK & (key_K <= place_T[:, None])
    return a_NTK.masked_fill(~there_NTK, torch.nan)
