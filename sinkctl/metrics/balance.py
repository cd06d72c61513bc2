"""A check of the measurement itself.

N samples, H query heads, S keys.
"""

from torch import Tensor

from sinkctl.metrics.learned import learned_mass
from sinkctl.metrics.views import AttentionView, Scope


def balance_error(view: AttentionView, scope: Scope) -> Tensor | None:
    """|what keys received + what the sink logit took − one a query|, a query: [N, H]; 0 but for rounding.

    None where weights are no softmax, and may sum to anything.
    """
    if view.weigh is not None:
        return None
    kept_NH, learned_NH = view.sums.received_BHS.sum(-1) / view.length_N[:, None], learned_mass(view, scope)
    return (kept_NH - 1 + (0 if learned_NH is None else learned_NH)).abs()
