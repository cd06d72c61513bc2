"""Cross-attention of a decoder: which of the encoder's outputs its queries attend to. Every query sees every key.

N samples, H query heads, G key/value heads, T queries, S keys (frames of sound, or tokens that the encoder read).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sinkctl.kernels.query_sums import norm
from sinkctl.metrics.means import first_and_rest
from sinkctl.metrics.output import written
from sinkctl.metrics.views import AttentionView, Scope


@dataclass(frozen=True)
class CrossView(AttentionView):
    """As an attention layer, but `real_NT` tells of the S keys; all queries are there, as many as `sums` has."""

    @property
    def queries(self) -> int:
        return self.sums.entropy_BHT.shape[-1]


def cross_alpha(view: CrossView, scope: Scope) -> Tensor:
    """α_k = Σ_t A_tk / T: [N, H, S], NaN past the end."""
    return (view.sums.received_BHS / view.queries).masked_fill(~view.real_NT[:, None], torch.nan)


def cross_split(view: CrossView, scope: Scope) -> Tensor:
    """Mass on the first `sinks` keys, on near ones (none: queries have no place among the keys), on the rest, on a
    sink logit (none): [N, H, 4]."""
    alpha_NHS = view.sums.received_BHS / view.queries
    first_NH, rest_NH = alpha_NHS[..., : scope.sinks].sum(-1), alpha_NHS[..., scope.sinks :].sum(-1)
    nothing_NH = torch.zeros_like(rest_NH)
    return torch.stack([first_NH, nothing_NH, rest_NH, nothing_NH], dim=-1)


def cross_entropy(view: CrossView, scope: Scope) -> Tensor:
    """Mean over queries of −Σ A ln A in nats: [N, H]."""
    return view.sums.entropy_BHT.mean(-1)


def cross_entropy_share(view: CrossView, scope: Scope) -> Tensor:
    """The same over ln S: [N, H]; 1 is uniform, NaN for a single key."""
    return cross_entropy(view, scope) / view.length_N.log().masked_fill(view.length_N < 2, torch.nan)[:, None]


def cross_key_norms(view: CrossView, scope: Scope) -> Tensor:
    """‖k_1‖, and the mean of ‖k_s‖ over s > 1: [N, G, 2]."""
    return first_and_rest(norm(view.k_NGTD), view.rest_NT[:, None])


def cross_output(view: CrossView, scope: Scope) -> Tensor | None:
    """Mean over queries of ‖W_O^h x_t‖, x what entered the projection: [N, H]."""
    if view.projection_CHE is None:
        return None
    return written(view, view.sums.out_BHTE if view.kept_NHTE is None else view.kept_NHTE).mean(-1)


def cross_balance(view: CrossView, scope: Scope) -> Tensor:
    """|what keys received − one a query|, a query: [N, H]; 0 but for rounding."""
    return (view.sums.received_BHS.sum(-1) / view.queries - 1).abs()
