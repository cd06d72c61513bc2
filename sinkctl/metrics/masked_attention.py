"""Attention of a few queries over more keys than they are, under any mask: exact, without sums.

Shapes: B batch, H query heads, G key/value heads, T queries, S keys (the last T are the queries' own), D, E widths.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sinkctl.kernels.stream_attention.reference import scores, weights
from sinkctl.model.handler import AttentionCall

TILE = 128  # queries at a time, where scores are made by hand


def attends_plainly(call: AttentionCall) -> bool:
    """Whether `masked_attention` knows how: softmax, with a soft cap, ALiBi and a sink logit at most."""
    return call.weigh is None and call.sink_key is None


def masked_attention(call: AttentionCall, k_BGSD: Tensor, v_BGSE: Tensor, seen_TS: Tensor) -> Tensor:
    """out_BHTE of the call's queries over these keys; `seen_TS`: bool [T, S] or [B, 1, T, S], a key for each."""
    q_BHTD, groups = call.q_BHTD, call.q_BHTD.shape[1] // k_BGSD.shape[1]
    k_BHSD, v_BHSE = (x.repeat_interleave(groups, dim=1) for x in (k_BGSD, v_BGSE))
    if call.softcap is None and call.sink_logit_H is None and call.slope_H is None:
        return scaled_dot_product_attention(q_BHTD, k_BHSD, v_BHSE, attn_mask=seen_TS, scale=call.scale)
    tiles = range(0, q_BHTD.shape[2], TILE)
    return torch.cat([_tile(call, slice(t, t + TILE), k_BHSD, v_BHSE, seen_TS) for t in tiles], dim=2)


def _tile(call: AttentionCall, part: slice, k_BHSD: Tensor, v_BHSE: Tensor, seen_TS: Tensor) -> Tensor:
    place_S = torch.arange(k_BHSD.shape[2], device=k_BHSD.device)
    distance_tS = place_S[-call.q_BHTD.shape[2] :][part, None] - place_S
    score_BHtS = scores(call.q_BHTD[:, :, part], k_BHSD, call.scale, call.softcap, call.slope_H, distance_tS)
    logit = call.sink_logit_H
    logit = logit if logit is None or logit.dim() == 1 else logit[..., part]
    a_BHtS = weights(score_BHtS.masked_fill(~seen_TS[..., part, :], -torch.inf), logit)[..., : k_BHSD.shape[2]]
    return (a_BHtS @ v_BHSE.to(a_BHtS.dtype)).to(call.q_BHTD.dtype)
