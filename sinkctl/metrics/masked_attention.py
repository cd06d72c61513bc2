"""Attention of a few queries over more keys than they are, under any mask: exact, without sums.

Shapes: B batch, H query heads, G key/value heads, T queries, S keys (the last T are the queries' own), D, E widths.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sinkctl.kernels.stream_attention.reference import per_query_head, scores, weights
from sinkctl.kernels.stream_attention.tiled import linear_gains, linear_partial
from sinkctl.model.handler import AttentionCall

TILE = 128  # queries at a time, where scores are made by hand


def attends_plainly(call: AttentionCall) -> bool:
    """Whether `masked_attention` knows how: softmax, with a soft cap, ALiBi and a sink logit at most."""
    return call.weigh is None and call.sink_key is None


def masked_attention(call: AttentionCall, k_BGSD: Tensor, v_BGSE: Tensor, seen_TS: Tensor) -> Tensor:
    """out_BHTE of the call's queries over these keys; `seen_TS`: bool [T, S] or [B, 1, T, S], a key for each."""
    q_BHTD, plain = call.q_BHTD, call.softcap is None and call.sink_logit_H is None and call.slope_H is None
    if plain and linear_gains(q_BHTD)[0]:
        return _by_head(q_BHTD, k_BGSD, v_BGSE, seen_TS, call.scale)
    k_BHSD, v_BHSE = (per_query_head(x, q_BHTD) for x in (k_BGSD, v_BGSE))
    if plain:
        return scaled_dot_product_attention(q_BHTD, k_BHSD, v_BHSE, attn_mask=seen_TS, scale=call.scale)
    tiles = range(0, q_BHTD.shape[2], TILE)
    return torch.cat([_tile(call, slice(t, t + TILE), k_BHSD, v_BHSE, seen_TS) for t in tiles], dim=2)


def _by_head(q_BHTD: Tensor, k_BGSD: Tensor, v_BGSE: Tensor, seen_TS: Tensor, scale: float) -> Tensor:
    """A key/value head at a time: A = B·G of them, R = H/G query heads each."""
    (B, H, T, D), (G, S) = q_BHTD.shape, k_BGSD.shape[1:3]
    mask_TS = torch.zeros_like(seen_TS, dtype=q_BHTD.dtype).masked_fill_(~seen_TS, -torch.inf)
    mask = mask_TS if mask_TS.dim() == 2 else mask_TS.expand(B, G, T, S).reshape(B * G, 1, T, S)
    k, v = (x.flatten(0, 1)[:, None] for x in (k_BGSD, v_BGSE))
    out_ARTE, _ = linear_partial(q_BHTD.reshape(B * G, H // G, T, D), k, v, mask, scale, None)
    return out_ARTE.reshape(B, H, T, -1)


def _tile(call: AttentionCall, part: slice, k_BHSD: Tensor, v_BHSE: Tensor, seen_TS: Tensor) -> Tensor:
    place_S = torch.arange(k_BHSD.shape[2], device=k_BHSD.device)
    distance_tS = place_S[-call.q_BHTD.shape[2] :][part, None] - place_S
    score_BHtS = scores(call.q_BHTD[:, :, part], k_BHSD, call.scale, call.softcap, call.slope_H, distance_tS)
    logit = call.sink_logit_H
    logit = logit if logit is None or logit.dim() == 1 else logit[..., part]
    a_BHtS = weights(score_BHtS.masked_fill(~seen_TS[..., part, :], -torch.inf), logit)[..., : k_BHSD.shape[2]]
    return (a_BHtS @ v_BHSE.to(a_BHtS.dtype)).to(call.q_BHTD.dtype)
