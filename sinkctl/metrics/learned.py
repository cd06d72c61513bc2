"""Attention that leaves the sequence for a learned sink logit, or for a key of the layer's own.

N samples, H query heads, T queries.
"""

import torch
from torch import Tensor

from sinkctl.kernels.column_sums import per_query
from sinkctl.metrics.means import mean_over, precise
from sinkctl.metrics.views import AttentionView, Scope

EPSILON = 0.3  # the field's


def log_learned(view: AttentionView) -> Tensor | None:
    """s − lse_t, the log of the mass on the sink logit: [N, H, T], −inf past the end; None without one."""
    if view.sink_logit_H is None:
        return None
    return view.own.once("log_learned", lambda: _log_learned(view, per_query(precise(view.sink_logit_H))))


def _log_learned(view: AttentionView, logit_NHT: Tensor) -> Tensor:
    return (logit_NHT - view.sums.lse_BHT).masked_fill(~view.real_NT[:, None], -torch.inf)


def learned_mass(view: AttentionView, scope: Scope) -> Tensor | None:
    """Mean over queries of exp(s − lse_t), the mass on the sink logit: [N, H]; softmax1 is s = 0."""
    log_NHT = log_learned(view)
    if log_NHT is None:
        return None
    return view.own.once("learned", lambda: mean_over(log_NHT.exp(), view.real_NT[:, None]))


def learned_sinks(view: AttentionView, scope: Scope) -> Tensor | None:
    """1[learned mass > 0.3], whose mean is Sink_* (Gu et al. 2024, arXiv 2410.10781): [N, H]."""
    mass_NH = learned_mass(view, scope)
    return None if mass_NH is None else (mass_NH > EPSILON).to(mass_NH)
