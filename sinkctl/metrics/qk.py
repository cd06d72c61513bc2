"""Why queries go to the first key: by its angle or by its norm. Queries and keys are rotated already.

N samples, H query heads, G key/value heads, T tokens.
"""

import torch
from torch import Tensor

from sinkctl.metrics.means import first_and_rest, mean_over
from sinkctl.metrics.queries import against
from sinkctl.metrics.views import AttentionView, Scope


def qk_cosine(view: AttentionView, scope: Scope) -> Tensor:
    """cos(q_t, k_1), and the mean of cos(q_t, k_j) over 1 < j ≤ t, means over t > 1: [N, H, 2]; any window is ignored.

    Bidirectional: over all j > 1 (Gu et al. 2024, arXiv 2410.10781).
    """
    found, causal = against(view, scope), view.visible.causal
    count_NT = view.shared.once(
        ("others", causal), lambda: view.rest_NT.cumsum(-1) if causal else view.rest_NT.sum(-1, keepdim=True)
    )
    norm_NHT = found.query_norm_BHT.clamp(min=1e-12)
    dot_NH2T = torch.stack([found.first_BHT, found.others_BHT / count_NT[:, None]], dim=2)
    return mean_over(dot_NH2T / norm_NHT[:, :, None], view.rest_NT[:, None, None])


def key_norms(view: AttentionView, scope: Scope) -> Tensor:
    """‖k_1‖, and the mean of ‖k_t‖ over t > 1: [N, G, 2]."""
    return first_and_rest(against(view, scope).key_norm_BGT, view.rest_NT[:, None])


def query_norm(view: AttentionView, scope: Scope) -> Tensor:
    """Mean of ‖q_t‖ over t > 1: [N, H]."""
    return mean_over(against(view, scope).query_norm_BHT, view.rest_NT[:, None])


def key_logit(view: AttentionView, scope: Scope) -> Tensor:
    """Mean over t > 1 of scale · q_t·k_1/‖k_1‖: [N, H]; times ‖k_1‖ it is the mean score of the first key."""
    return mean_over(against(view, scope).first_BHT, view.rest_NT[:, None]) * view.scale
