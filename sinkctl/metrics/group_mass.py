"""How attention is shared out among kinds of keys: BOS, image and text; speech and padding.

N samples, H query heads, T queries, S keys, K kinds.
"""

import torch
from torch import Tensor

from sinkctl.metrics.means import mean_over
from sinkctl.metrics.views import TILE, AttentionView, Scope


def group_mass(view: AttentionView, scope: Scope) -> Tensor | None:
    """Mean over the queries that ask of Σ_k A_tk over the keys of each kind: [N, H, K]; None without kinds.

    Of the sinks that a layer has of its own nothing counts, so the kinds may have less than 1 together.
    """
    if view.groups is None:
        return None
    of_NSK = torch.nn.functional.one_hot(view.groups.of_NS, view.groups.count).to(view.sums.received_BHS.dtype)
    queries, asking_NT = view.q_NHTD.shape[2], view.groups.asking_NT
    if asking_NT is None:
        return view.sums.received_BHS @ of_NSK / queries
    tiles = (slice(first, min(first + TILE, queries)) for first in range(0, queries, TILE))
    mass_NHTK = torch.cat([view.attention(tile, slice(None)) @ of_NSK[:, None] for tile in tiles], dim=2)
    return mean_over(mass_NHTK.mT, asking_NT[:, None, None])
