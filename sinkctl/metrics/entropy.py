"""How spread attention is.

N samples, H query heads, T queries.
"""

from torch import Tensor

from sinkctl.metrics.means import mean_over
from sinkctl.metrics.seen import keys_seen
from sinkctl.metrics.views import AttentionView, Scope


def entropy(view: AttentionView, scope: Scope) -> Tensor:
    """Mean over queries of −Σ A ln A in nats, the sink logit an outcome like the keys: [N, H]."""
    return mean_over(view.sums.entropy_BHT, view.real_NT[:, None])


def entropy_share(view: AttentionView, scope: Scope) -> Tensor:
    """Mean over queries of the entropy / its maximum, ln of the outcomes seen: [N, H]; 1 is uniform.

    Queries that see a single outcome do not count.
    """
    outcomes_N1T = (keys_seen(view) + (view.sink_logit_H is not None))[:, None]
    choosing_N1T = view.real_NT[:, None] & (outcomes_N1T > 1)
    return mean_over(view.sums.entropy_BHT / outcomes_N1T.to(view.sums.entropy_BHT.dtype).log(), choosing_N1T)
