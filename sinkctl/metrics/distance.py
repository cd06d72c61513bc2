"""How far attention reaches.

N samples, H query heads, T queries.
"""

import torch
from torch import Tensor

from sinkctl.metrics.learned import log_learned
from sinkctl.metrics.means import mean_over
from sinkctl.metrics.views import AttentionView, Scope


def mean_distance(view: AttentionView, scope: Scope) -> Tensor:
    """Mean over queries of Σ_k A_tk |t − k| / Σ_k A_tk, in tokens: [N, H].

    Queries that give the keys nothing, as a sink logit takes all, do not count.
    """
    log_NHT, distance_NHT = log_learned(view), view.sums.distance_BHT
    keys_NHT = torch.ones_like(distance_NHT) if log_NHT is None else -torch.expm1(log_NHT)
    keys_NHT = keys_NHT if view.weigh is None else view.sums.lse_BHT.exp()  # the rows' own sums
    return mean_over(distance_NHT / keys_NHT, view.real_NT[:, None] & (keys_NHT > 0))
