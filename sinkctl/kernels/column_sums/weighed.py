"""`column_sums` for weights that are no plain softmax, in tiles of queries. Shapes as in `reference.py`."""

from collections.abc import Callable

import torch
from torch import Tensor

from sinkctl.kernels.column_sums.reference import AttentionSums, Visible

TILE = 128  # queries


def weighed(
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    v_BGSE: Tensor,
    *,
    scale: float,
    visible: Visible,
    weigh: Callable[[Tensor, Tensor], Tensor],
    sink_logit_H: Tensor | None = None,
    softcap: float | None = None,
    slope_H: Tensor | None = None,
) -> AttentionSums:
    """As `reference.column_sums`, A being `weigh(score_BHTS, seen)`, whose rows may sum to anything.

    In place of the log-sum-exp stands ln Σ_k A_tk. Without sink logits and ALiBi, which no such model has.
    """
    assert sink_logit_H is None
    assert slope_H is None
    precise, (B, H, T, _) = torch.promote_types(q_BHTD.dtype, torch.float32), q_BHTD.shape
    k_BHSD, v_BHSE = (x.repeat_interleave(H // x.shape[1], dim=1).to(precise) for x in (k_BGSD, v_BGSE))
    place_T = torch.arange(T, device=q_BHTD.device)
    out_BHTE = q_BHTD.new_empty(B, H, T, v_BGSE.shape[-1])
    lse_BHT, entropy_BHT, distance_BHT, received_BHS = q_BHTD.new_zeros(4, B, H, T, dtype=precise)
    for place_t in place_T.split(TILE):
        score_BHtS = (q_BHTD[:, :, place_t].to(precise) @ k_BHSD.mT) * scale
        if softcap is not None:
            score_BHtS = softcap * torch.tanh(score_BHtS / softcap)
        seen_BHtS = visible.mask(place_t[:, None], place_T).expand_as(score_BHtS)
        a_BHtS = weigh(score_BHtS, seen_BHtS).masked_fill(~seen_BHtS, 0.0)
        out_BHTE[:, :, place_t] = (a_BHtS @ v_BHSE).to(out_BHTE.dtype)
        entropy_BHT[:, :, place_t] = -torch.special.xlogy(a_BHtS, a_BHtS).sum(-1)
        lse_BHT[:, :, place_t] = a_BHtS.sum(-1).log()
        distance_BHT[:, :, place_t] = (a_BHtS * (place_t[:, None] - place_T).abs()).sum(-1)
        received_BHS += a_BHtS.sum(-2)
    return AttentionSums(out_BHTE, lse_BHT, entropy_BHT, distance_BHT, received_BHS)
