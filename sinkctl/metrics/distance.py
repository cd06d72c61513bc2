"""How far attention reaches.

N samples, H query heads, T queries.
"""

from torch import Tensor

from sinkctl.metrics.learned import log_learned
from sinkctl.metrics.means import mean_over
from sinkctl.metrics.views import AttentionView, Scope


def mean_distance(view: AttentionView, scope: Scope) -> Tensor:
    """Mean over queries of Σ_k A_tk |t − k| / Σ_k A_tk, in tokens: [N, H].

    Queries that give the keys nothing, as a sink logit takes all, do not count.
    """
    log_NHT, distance_NHT = log_learned(view), view.sums.distance_BHT
    if view.weigh is None and log_NHT is None:
        return mean_over(distance_NHT, view.real_NT[:, None])
    keys_NHT = -log_NHT.expm1() if view.weigh is None else view.sums.lse_BHT.exp()  # the rows' own sums
    return mean_over(distance_NHT / keys_NHT, view.real_NT[:, None] & (keys_NHT > 0))
