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
    more, dtype = view.sink_logit_H is not None, view.sums.lse_BHT.dtype

    def most() -> tuple[Tensor, Tensor]:
        outcomes_NT = keys_seen(view) + more
        return outcomes_NT.to(dtype).log(), view.real_NT & (outcomes_NT > 1)

    most_NT, choosing_NT = view.shared.once(("most", view.pattern, more, dtype), most)
    return mean_over(view.sums.entropy_BHT / most_NT[:, None], choosing_NT[:, None])
