"""The specification of `stream_attention`, in plain torch.

Shapes: B batch, H query heads, G key/value heads (H is a multiple of G), T queries, S band keys (S ≥ T),
N strip keys, D query/key width, E value width.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Strip(NamedTuple):
    """Keys every query sees whatever its distance (the sinks), with the queries rotated to face them."""

    q_BHTD: Tensor
    k_BGND: Tensor
    v_BGNE: Tensor
    distance_N: Tensor | None = None  # at which every query meets each of them; only ALiBi asks


def stream_attention(
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    v_BGSE: Tensor,
    *,
    scale: float,
    window: int | None = None,
    strip: Strip | None = None,
    sink_logit_H: Tensor | None = None,
    softcap: float | None = None,
    slope_H: Tensor | None = None,
) -> Tensor:
    """Softmax over a causal band, an unmasked strip and a learned sink logit; returns out_BHTE.

    Query i stands at key S−T+i and sees the keys from `window` before it up to itself (all of them if `window` is
    None), every strip key, and the sink logit (which takes mass and gives no value):

        out_i = Σ_j exp(s_ij) v_j / (Σ_j exp(s_ij) + exp(sink_logit)),
        s_ij = softcap·tanh(scale·q_i·k_j / softcap) − slope·d_ij

    q and k are rotated already; the strip has a query of its own because its distances are capped
    (Xiao et al. 2023, arXiv 2309.17453, §3.2). With ALiBi (Press et al. 2021, arXiv 2108.12409) scores fall by slope_H
    a token of distance: d_ij = S−T+i−j in the band, `distance_N` in the strip, an integer until it meets the slope.
    Softmax in float32, or float64 for float64 inputs.
    """
    queries, keys = q_BHTD.shape[2], k_BGSD.shape[2]
    position_T1 = torch.arange(keys - queries, keys, device=q_BHTD.device)[:, None]
    key_S = torch.arange(keys, device=q_BHTD.device)
    visible_TS = key_S <= position_T1
    if window is not None:
        visible_TS &= key_S >= position_T1 - window
    score = scores(q_BHTD, k_BGSD, scale, softcap, slope_H, position_T1 - key_S).masked_fill(~visible_TS, -torch.inf)
    value = per_query_head(v_BGSE, q_BHTD)
    if strip is not None:
        faced = scores(strip.q_BHTD, strip.k_BGND, scale, softcap, slope_H, strip.distance_N)
        score = torch.cat([faced, score], dim=-1)
        value = torch.cat([per_query_head(strip.v_BGNE, q_BHTD), value], dim=2)
    weight = weights(score, sink_logit_H)[..., : value.shape[2]]
    return (weight @ value.to(weight.dtype)).to(q_BHTD.dtype)


def weights(score_BHTS: Tensor, sink_logit: Tensor | None) -> Tensor:
    """Softmax of the scores (−inf where a key is not seen), and behind it the sink logit's share, where there is one.

    The sink logit is one a head, [H], or one a head and query, [B, H, T].
    """
    if sink_logit is not None:
        logit = sink_logit.to(score_BHTS.dtype)
        logit_BHT = (logit if logit.dim() == 3 else logit[:, None]).expand(score_BHTS.shape[:3])
        score_BHTS = torch.cat([score_BHTS, logit_BHT[..., None]], dim=-1)
    return score_BHTS.softmax(-1)


def scores(q_BHTD, k_BGSD, scale: float, softcap: float | None, slope_H=None, distance=None) -> Tensor:
    precise = torch.promote_types(q_BHTD.dtype, torch.float32)
    score_BHTS = (q_BHTD.to(precise) @ per_query_head(k_BGSD, q_BHTD).to(precise).mT) * scale
    if softcap is not None:
        score_BHTS = softcap * torch.tanh(score_BHTS / softcap)
    return score_BHTS if slope_H is None else score_BHTS - slope_H.to(precise)[:, None, None] * distance


def per_query_head(x_BGSD: Tensor, q_BHTD: Tensor) -> Tensor:
    return x_BGSD.repeat_interleave(q_BHTD.shape[1] // x_BGSD.shape[1], dim=1)
