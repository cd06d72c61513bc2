"""Where a head's attention goes: to sinks, near the query, elsewhere, or out of the sequence.

N samples, H query heads, T queries, S keys.
"""

import torch
from torch import Tensor

from sinkctl.metrics.learned import learned_mass
from sinkctl.metrics.queries import near
from sinkctl.metrics.views import AttentionView, Scope


def mass_split(view: AttentionView, scope: Scope) -> Tensor:
    """Mean over queries of the mass on four classes that sum to 1 (where attention's weights do): [N, H, 4].

    The first `sinks` keys; other keys at most `local` away, the query itself included; the rest; the sink logit.
    """
    received_NHS, queries_N1 = view.sums.received_BHS, view.length_N[:, None]
    sinks_NH = received_NHS[..., : scope.sinks].sum(-1) / queries_N1
    local_NH = torch.where(view.real_NT[:, None], near(view, scope), 0.0).sum(-1) / queries_N1
    rest_NH = (received_NHS.sum(-1) / queries_N1 - sinks_NH - local_NH).clamp(min=0)
    learned_NH = learned_mass(view, scope)
    learned_NH = torch.zeros_like(rest_NH) if learned_NH is None else learned_NH
    return torch.stack([sinks_NH, local_NH, rest_NH, learned_NH], dim=-1)
