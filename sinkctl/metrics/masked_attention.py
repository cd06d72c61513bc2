"""Attention of a few queries over more keys than they are, under any mask: exact, without sums.

Shapes: B batch, H query heads, G key/value heads, T queries, S keys (the last T are the queries' own), D, E widths.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sinkctl.kernels.column_sums import per_query
from sinkctl.model.handler import AttentionCall

TILE = 128  # queries at a time, where scores are made by hand


def attends_plainly(call: AttentionCall) -> bool:
    """Whether `masked_attention` knows how: softmax, with a soft cap, ALiBi and a sink logit at most."""
    return call.weigh is None and call.sink_key is None


def masked_attention(call: AttentionCall, k_BGSD: Tensor, v_BGSE: Tensor, seen_TS: Tensor) -> Tensor:
    """out_BHTE of the call's queries over these keys; `seen_TS` is bool, and every query sees a key."""
    q_BHTD, groups = call.q_BHTD, call.q_BHTD.shape[1] // k_BGSD.shape[1]
    k_BHSD, v_BHSE = (x.repeat_interleave(groups, dim=1) for x in (k_BGSD, v_BGSE))
    if call.softcap is None and call.sink_logit_H is None and call.slope_H is None:
        return scaled_dot_product_attention(q_BHTD, k_BHSD, v_BHSE, attn_mask=seen_TS, scale=call.scale)
    tiles = range(0, q_BHTD.shape[2], TILE)
    return torch.cat([_tile(call, slice(t, t + TILE), k_BHSD, v_BHSE, seen_TS) for t in tiles], dim=2)


def _tile(call: AttentionCall, part: slice, k_BHSD: Tensor, v_BHSE: Tensor, seen_TS: Tensor) -> Tensor:
    q_BHtD = call.q_BHTD[:, :, part]
    precise = torch.promote_types(q_BHtD.dtype, torch.float32)
    score_BHtS = (q_BHtD.to(precise) @ k_BHSD.to(precise).mT) * call.scale
    if call.softcap is not None:
        score_BHtS = call.softcap * torch.tanh(score_BHtS / call.softcap)
    if call.slope_H is not None:
        place_S = torch.arange(k_BHSD.shape[2], device=q_BHtD.device)
        query_t1 = place_S[-call.q_BHTD.shape[2] :][part, None]
        score_BHtS = score_BHtS - call.slope_H.to(precise)[:, None, None] * (query_t1 - place_S).abs()
    score_BHtS = score_BHtS.masked_fill(~seen_TS[part], -torch.inf)
    if call.sink_logit_H is not None:
        logit_BHt = per_query(call.sink_logit_H.to(precise)).expand(*call.q_BHTD.shape[:3])[:, :, part]
        score_BHtS = torch.cat([score_BHtS, logit_BHt[..., None]], dim=-1)
    a_BHtS = score_BHtS.softmax(-1)[..., : k_BHSD.shape[2]]
    return (a_BHtS @ v_BHSE.to(precise)).to(q_BHtD.dtype)
