"""The specification of `decode_attention`, in plain torch; also what runs on a CPU.

Shapes: B rows, H query heads, G key/value heads (H is a multiple of G), R ring slots, S sinks, D and E widths,
n rotated pairs.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from sinkctl.kernels.rotate import reference as rotation


class Ring(NamedTuple):
    """One layer's static KV cache: a slot for each sink, and W+1 slots that the other tokens take in turn."""

    k_BGRD: Tensor
    v_BGRE: Tensor
    sink_k_BGSD: Tensor
    sink_v_BGSE: Tensor


class Turn(NamedTuple):
    """Cosines and sines, by row, of the new token's position and of the place its query takes before the sinks."""

    cos_Bn: Tensor
    sin_Bn: Tensor
    strip_cos_Bn: Tensor
    strip_sin_Bn: Tensor
    start: int
    interleaved: bool


def decode_attention(
    q_BHD: Tensor,
    k_BGD: Tensor,
    v_BGE: Tensor,
    ring: Ring,
    t_B: Tensor,
    *,
    turn: Turn | None,
    scale: float,
    sink_logit_H: Tensor | None = None,
    softcap: float | None = None,
    slope_H: Tensor | None = None,
    full: bool = False,
) -> Tensor:
    """One token a row: stores its key and value in the ring, and attends; returns out_BHE.

    Row b's token is number t_B[b] of its stream (int64). It goes to sink slot t while t < S, then to ring slot
    (t−S) mod R, R = W+1, and sees the sinks up to t, the W tokens before it, and itself:

        out = Σ exp(s_j) v_j / (Σ exp(s_j) + exp(sink_logit)),  s_j = softcap·tanh(scale·q·k_j / softcap) − slope·d_j

    q and k come un-rotated and are turned by `turn`: the key once, at t − (S+W); the query there for the ring, and at
    min(t − (S+W), 0) for the sinks, so that its distance to sink j is min(t, S+W) − j (Xiao et al. 2023, arXiv
    2309.17453, §3.2). `full` promises that every t_B ≥ S+W+1, so that nothing is hidden. Softmax in float32, or
    float64 for float64 inputs.
    """
    sinks, slots = ring.sink_k_BGSD.shape[2], ring.k_BGRD.shape[2]
    (B, H), G = q_BHD.shape[:2], k_BGD.shape[1]
    strip_q = q_BHD
    if turn is not None:
        strip_q = q_BHD if full else turned(q_BHD, turn.strip_cos_Bn, turn.strip_sin_Bn, turn)
        both = turned(torch.cat([q_BHD, k_BGD], dim=1), turn.cos_Bn, turn.sin_Bn, turn)
        q_BHD, k_BGD = both[:, :H], both[:, H:]
    row_B, newest_B = torch.arange(B, device=t_B.device), (t_B - sinks) % slots
    ring.k_BGRD[row_B, :, newest_B] = k_BGD
    ring.v_BGRE[row_B, :, newest_B] = v_BGE
    age_BR = None
    if slope_H is not None or not full:
        age_BR = (newest_B[:, None] - torch.arange(slots, device=t_B.device)) % slots
    score, values = _scores(q_BHD, ring.k_BGRD, scale, softcap, slope_H, age_BR), [ring.v_BGRE]
    if not full:
        score = score.masked_fill((age_BR > (t_B - sinks)[:, None])[:, None, None], -torch.inf)
    scores = [score]
    if sinks:
        if not full:
            _keep_first(ring, k_BGD, v_BGE, t_B, row_B)
        sink_S = torch.arange(sinks, device=t_B.device)
        distance_BS = t_B.clamp(max=sinks + slots - 1)[:, None] - sink_S if slope_H is not None else None
        strip = _scores(strip_q, ring.sink_k_BGSD, scale, softcap, slope_H, distance_BS)
        if not full:
            strip = strip.masked_fill((sink_S > t_B[:, None])[:, None, None], -torch.inf)
        scores.append(strip)
        values.append(ring.sink_v_BGSE)
    if sink_logit_H is not None:
        scores.append(sink_logit_H.to(score.dtype).view(1, G, H // G, 1).expand(B, -1, -1, 1))
    weights = torch.cat(scores, dim=-1).softmax(-1).split([part.shape[-1] for part in scores], dim=-1)
    out = sum(weight @ value.to(weight.dtype) for weight, value in zip(weights, values, strict=False))
    return out.reshape(B, H, -1).to(q_BHD.dtype)


def _keep_first(ring: Ring, k_BGD: Tensor, v_BGE: Tensor, t_B: Tensor, row_B: Tensor) -> None:
    """Put the tokens that are among the first S into their sink slots."""
    sinks = ring.sink_k_BGSD.shape[2]
    slot_B, first_B11 = t_B.clamp(max=sinks - 1), (t_B < sinks)[:, None, None]
    for kept, new in ((ring.sink_k_BGSD, k_BGD), (ring.sink_v_BGSE, v_BGE)):
        kept[row_B, :, slot_B] = torch.where(first_B11, new, kept[row_B, :, slot_B])


def turned(x_BHD: Tensor, cos_Bn: Tensor, sin_Bn: Tensor, turn: Turn) -> Tensor:
    """Turn every row by its own angles."""
    x_1HBD = x_BHD.transpose(0, 1)[None]  # `rotate` turns by token; here rows take the tokens' place
    out = rotation.rotate(x_1HBD, cos_Bn, sin_Bn, start=turn.start, interleaved=turn.interleaved)
    return out[0].transpose(0, 1)


def _scores(q_BHD, k_BGKD, scale, softcap, slope_H, distance_BK) -> Tensor:
    """[B, G, H/G, K], in float32 or wider."""
    (B, H, D), G = q_BHD.shape, k_BGKD.shape[1]
    precise = torch.promote_types(q_BHD.dtype, torch.float32)
    score = (q_BHD.reshape(B, G, H // G, D).to(precise) @ k_BGKD.to(precise).mT) * scale
    if softcap is not None:
        score = softcap * torch.tanh(score / softcap)
    if slope_H is not None:
        score = score - slope_H.to(precise).view(1, G, H // G, 1) * distance_BK[:, None, None]
    return score
