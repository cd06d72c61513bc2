"""A check of the measurement itself.

N samples, H query heads, S keys.
"""

import torch
from torch import Tensor

from sinkctl.metrics.learned import learned_mass
from sinkctl.metrics.views import AttentionView, Scope


def balance_error(view: AttentionView, scope: Scope) -> Tensor | None:
    """|what keys received + what the sink logit took − one a query|, a query: [N, H]; 0 but for rounding.

    None where weights are no softmax, and may sum to anything.
    """
    if view.weigh is not None:
        return None
    received_NHS = torch.where(view.real_NT[:, None], view.sums.received_BHS, 0.0)
    kept_NH, learned_NH = received_NHS.sum(-1) / view.length_N[:, None], learned_mass(view, scope)
    return (kept_NH - 1 + (0 if learned_NH is None else learned_NH)).abs()
