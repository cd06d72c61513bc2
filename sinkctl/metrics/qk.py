"""Why queries go to the first key: by its angle or by its norm. Queries and keys are rotated already.

N samples, G key/value heads, R query heads a key/value head, H = G·R, T tokens, D query/key width.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from sinkctl.metrics.means import after_first, first_and_rest, mean_over, precise
from sinkctl.metrics.views import AttentionView, Scope

TILE = 64  # tokens summed by one product


def qk_cosine(view: AttentionView, scope: Scope) -> Tensor:
    """cos(q_t, k_1), and the mean of cos(q_t, k_j) over 1 < j ≤ t, means over t > 1: [N, H, 2]; any window is ignored.

    Bidirectional: over all j > 1 (Gu et al. 2024, arXiv 2410.10781).
    """
    k_NGTD, rest_NT = normalize(precise(view.k_NGTD), dim=-1), after_first(view.real_NT)
    q_NGRTD = normalize(precise(view.q_NHTD), dim=-1).unflatten(1, (k_NGTD.shape[1], -1))
    others_NGTD = k_NGTD * rest_NT[:, None, :, None]
    if view.visible.causal:
        sum_NGTD, count_NT = _running_sum(others_NGTD), rest_NT.cumsum(-1)
    else:
        sum_NGTD, count_NT = others_NGTD.sum(2, keepdim=True), rest_NT.sum(-1, keepdim=True)
    first_NGRT = (q_NGRTD * k_NGTD[:, :, None, :1]).sum(-1)
    others_NGRT = (q_NGRTD * sum_NGTD[:, :, None]).sum(-1) / count_NT[:, None, None]
    means = [mean_over(x_NGRT, rest_NT[:, None, None]).flatten(1) for x_NGRT in (first_NGRT, others_NGRT)]
    return torch.stack(means, dim=-1)


def key_norms(view: AttentionView, scope: Scope) -> Tensor:
    """‖k_1‖, and the mean of ‖k_t‖ over t > 1: [N, G, 2]."""
    return first_and_rest(precise(view.k_NGTD).norm(dim=-1), view.real_NT[:, None])


def query_norm(view: AttentionView, scope: Scope) -> Tensor:
    """Mean of ‖q_t‖ over t > 1: [N, H]."""
    return mean_over(precise(view.q_NHTD).norm(dim=-1), after_first(view.real_NT)[:, None])


def key_logit(view: AttentionView, scope: Scope) -> Tensor:
    """Mean over t > 1 of scale · q_t·k_1/‖k_1‖: [N, H]; times ‖k_1‖ it is the mean score of the first key."""
    k_NGD = normalize(precise(view.k_NGTD[:, :, 0]), dim=-1)
    q_NGRTD = precise(view.q_NHTD).unflatten(1, (k_NGD.shape[1], -1))
    score_NHT = (q_NGRTD @ k_NGD[:, :, None, :, None])[..., 0].flatten(1, 2) * view.scale
    return mean_over(score_NHT, after_first(view.real_NT)[:, None])


def _running_sum(x_NGTD: Tensor) -> Tensor:
    """cumsum over tokens, as a triangular product inside tiles: torch's own scans a middle dimension slowly."""
    tokens = x_NGTD.shape[2]
    tiles_NGnTD = pad(x_NGTD, (0, 0, 0, -tokens % TILE)).unflatten(2, (-1, TILE))
    lower_TT = torch.ones(TILE, TILE, dtype=x_NGTD.dtype, device=x_NGTD.device).tril()
    before_NGnD = tiles_NGnTD.sum(3).cumsum(2) - tiles_NGnTD.sum(3)
    return (lower_TT @ tiles_NGnTD + before_NGnD[:, :, :, None]).flatten(2, 3)[:, :, :tokens]
