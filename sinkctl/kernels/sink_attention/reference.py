"""The specification of `sink_attention`, in plain torch; gradients by autograd.

Shapes: B batch, H query heads, G key/value heads (H is a multiple of G), T tokens, D head width, N documents.
"""

import torch
from torch import Tensor


def sink_attention(
    q_BHTD: Tensor,
    k_BGTD: Tensor,
    v_BGTD: Tensor,
    sink_logit: Tensor | None = None,
    sink_value_GD: Tensor | None = None,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    documents_N: Tensor | None = None,
) -> Tensor:
    """Causal attention whose softmax has one more outcome, the sink; returns out_BHTD, with gradients to all tensors.

        out_t = (Σ_j exp(s_tj) v_j + exp(sink_logit) sink_value) / (Σ_j exp(s_tj) + exp(sink_logit)),
        s_tj = softcap·tanh(scale·q_t·k_j / softcap)

    Query t sees itself and the `window` tokens before it (None: all). The logit is one a head, [H] (gpt-oss), or one a
    query, [B, H, T] (the score of a learned key); it is neither scaled, capped nor masked, and None is no sink. Its
    value is a vector a key/value head (None: zero). `documents_N` (int32, N+1 entries for N documents) says where
    documents begin among the B·T tokens, row after row: 0 first, B·T last, every row's start included; tokens see
    their own document only (None: a row is one). Softmax in float32, or float64 for float64 inputs.
    """
    assert sink_logit is not None or sink_value_GD is None
    precise = torch.promote_types(q_BHTD.dtype, torch.float32)
    k_BHTD, v_BHTD = (per_query_head(x, q_BHTD).to(precise) for x in (k_BGTD, v_BGTD))
    score_BHTS = (q_BHTD.to(precise) @ k_BHTD.mT) * scale
    if softcap is not None:
        score_BHTS = softcap * torch.tanh(score_BHTS / softcap)
    score_BHTS = score_BHTS.masked_fill(~visible(q_BHTD, window, documents_N)[:, None], -torch.inf)
    if sink_logit is None:
        return (score_BHTS.softmax(-1) @ v_BHTD).to(q_BHTD.dtype)
    logit_BHT1 = per_query(sink_logit.to(precise))[..., None].expand(*score_BHTS.shape[:3], 1)
    weight_BHTS, taken_BHT1 = torch.cat([score_BHTS, logit_BHT1], dim=-1).softmax(-1).tensor_split([-1], dim=-1)
    out_BHTD = weight_BHTS @ v_BHTD
    if sink_value_GD is not None:
        out_BHTD = out_BHTD + taken_BHT1 * sink_value_H1D(sink_value_GD, q_BHTD).to(precise)
    return out_BHTD.to(q_BHTD.dtype)


def first_visible(q_BHTD: Tensor, window: int | None, documents_N: Tensor | None) -> Tensor:
    """first_BT, int64: the first key of its row that each query sees; it also sees all from there up to itself."""
    B, _, T, _ = q_BHTD.shape
    place_T = torch.arange(T, device=q_BHTD.device)
    first_BT = place_T.new_zeros(B, T)
    if documents_N is not None:
        begins_N = documents_N.to(place_T)
        row_B1 = torch.arange(0, B * T, T, device=q_BHTD.device)[:, None]
        first_BT = begins_N[torch.searchsorted(begins_N, row_B1 + place_T, right=True) - 1] - row_B1
    return first_BT if window is None else torch.maximum(first_BT, place_T - window)


def visible(q_BHTD: Tensor, window: int | None, documents_N: Tensor | None) -> Tensor:
    """visible_BTS, whether a query sees a key."""
    place_T = torch.arange(q_BHTD.shape[2], device=q_BHTD.device)
    return (place_T <= place_T[:, None]) & (place_T >= first_visible(q_BHTD, window, documents_N)[..., None])


def per_query(sink_logit: Tensor) -> Tensor:
    """Either form of the logit, to broadcast over [B, H, T]."""
    return sink_logit[None, :, None] if sink_logit.dim() == 1 else sink_logit


def sink_value_H1D(sink_value_GD: Tensor, q_BHTD: Tensor) -> Tensor:
    return sink_value_GD.repeat_interleave(q_BHTD.shape[1] // sink_value_GD.shape[0], dim=0)[:, None]


def per_query_head(x_BGTD: Tensor, q_BHTD: Tensor) -> Tensor:
    return x_BGTD.repeat_interleave(q_BHTD.shape[1] // x_BGTD.shape[1], dim=1)
