"""`stream_attention` for weights that are no plain softmax, in tiles of queries. Shapes as in `reference.py`."""

from collections.abc import Callable

import torch
from torch import Tensor

from sinkctl.kernels.stream_attention.reference import Strip, per_query_head, scores

TILE = 128  # queries


def weighed(
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    v_BGSE: Tensor,
    *,
    scale: float,
    weigh: Callable[[Tensor, Tensor], Tensor],
    window: int | None = None,
    strip: Strip | None = None,
    sink_logit_H: Tensor | None = None,
    softcap: float | None = None,
    slope_H: Tensor | None = None,
) -> Tensor:
    """As `reference.stream_attention`, with `weigh(score_BHTS, seen)` in place of the softmax.

    Strip and band are one row of scores to it; without sink logits, of which `weigh` alone can know.
    """
    assert sink_logit_H is None
    (B, H, T, _), S = q_BHTD.shape, k_BGSD.shape[2]
    faced = strip or Strip(q_BHTD, k_BGSD[:, :, :0], v_BGSE[:, :, :0], torch.zeros(0, device=q_BHTD.device))
    k_strip, v_strip = (per_query_head(x, q_BHTD) for x in faced[1:3])
    out_BHTE = q_BHTD.new_empty(B, H, T, v_BGSE.shape[-1])
    for start in range(0, T, TILE):
        tile, first, end = slice(start, start + TILE), S - T + start, min(S - T + start + TILE, S)
        band = slice(0 if window is None else max(0, first - window), end)
        k_BHSD, v_BHSE = (per_query_head(x[:, :, band], q_BHTD) for x in (k_BGSD, v_BGSE))
        place_T, place_S = (torch.arange(x, end, device=q_BHTD.device) for x in (first, band.start))
        distance_TS = place_T[:, None] - place_S
        parts = ((faced.q_BHTD, k_strip, faced.distance_N), (q_BHTD, k_BHSD, distance_TS))
        score_BHTS = torch.cat([scores(q[:, :, tile], k, scale, softcap, slope_H, d) for q, k, d in parts], dim=-1)
        seen_TS = (distance_TS >= 0) & (distance_TS <= (S if window is None else window))
        seen_TS = torch.nn.functional.pad(seen_TS, (k_strip.shape[2], 0), value=True)
        weight_BHTS = weigh(score_BHTS, seen_TS).to(v_BGSE.dtype)
        out_BHTE[:, :, tile] = weight_BHTS @ torch.cat([v_strip, v_BHSE], dim=2)
    return out_BHTE
