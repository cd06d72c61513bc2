"""`column_sums` in tiles of queries, each against only the keys it can see.

Shapes as in `reference.py`, after the query heads are split by key/value head: R = H/G. Inside a tile B, G, T and S
count what the tile holds of them.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from sinkctl.kernels.column_sums.reference import AttentionSums, Visible, per_query

TILE = 128  # queries
# Scores a tile: few enough to stay in a CPU's cache; on a GPU few enough to fit beside a model.
MOST = {"cpu": 1 << 20}
MOST_ELSEWHERE = 1 << 27
HIDDEN = -1e30  # finite: less than every score
# Of scores less their greatest, what is lower counts as this much: e^−80 changes no sum, and what is less than the
# smallest normal number takes a CPU thirty times as long.
LEAST = {torch.float32: -80.0, torch.float64: -700.0}


def tiled(
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    v_BGSE: Tensor,
    *,
    scale: float,
    visible: Visible,
    sink_logit_H: Tensor | None = None,
    softcap: float | None = None,
    slope_H: Tensor | None = None,
) -> AttentionSums:
    """As `reference.column_sums`, in memory of the inputs and two tiles of scores: any device, dtype and width."""
    (B, H, T, _), (G, S) = q_BHTD.shape, k_BGSD.shape[1:3]
    R, precise, device = H // G, torch.promote_types(q_BHTD.dtype, torch.float32), q_BHTD.device
    q = q_BHTD.unflatten(1, (G, R))
    k, v = (x.to(precise).contiguous() for x in (k_BGSD, v_BGSE))
    sink = None if sink_logit_H is None else per_query(sink_logit_H.to(precise)).expand(B, H, T).unflatten(1, (G, R))
    slope = None if slope_H is None else slope_H.to(precise).view(G, R, 1)
    out = q.new_empty(B, G, R, T, v.shape[-1])
    rows = q.new_zeros(3, B, G, R, T, dtype=precise)
    received = q.new_zeros(B, G, R, S, dtype=precise)
    reach = max(T, S) if visible.window is None else visible.window
    most = MOST.get(device.type, MOST_ELSEWHERE)
    tile = max(16, min(TILE, most // (R * min(S, reach + TILE))))
    for start in range(0, T, tile):
        end = min(start + tile, T)
        first, last = max(0, start - reach), min(S, end if visible.causal else end + reach)
        place_T, place_S = torch.arange(start, end, device=device), torch.arange(first, last, device=device)
        distance_TS = (place_T[:, None] - place_S).abs_().to(precise)
        pairs = max(1, most // (R * distance_TS.numel()))
        for b in _slices(B, max(1, pairs // G)):
            hidden = _hidden(visible, b, place_T, place_S)
            for g in _slices(G, min(G, pairs)):
                at = b, g, slice(None), slice(start, end)
                part = _tile(
                    q[at].to(precise) * scale, k[b, g, first:last], v[b, g, first:last], hidden, distance_TS,
                    None if sink is None else sink[at], softcap, None if slope is None else slope[g],
                )  # fmt: skip
                out[at] = part.out_BHTE
                for whole, found in zip(rows, part[1:4], strict=True):
                    whole[at] = found
                received[b, g, :, first:last] += part.received_BHS
    return AttentionSums(out.flatten(1, 2), *(x.flatten(1, 2) for x in (*rows, received)))


def _slices(count: int, step: int) -> Iterator[slice]:
    return (slice(start, start + step) for start in range(0, count, step))


def _hidden(visible: Visible, b: slice, place_T: Tensor, place_S: Tensor) -> list[tuple[slice, Tensor]]:
    """(columns, where they are hidden) for the columns that some query of the tile may not see."""
    (start, end), (first, last) = ((int(x[0]), int(x[-1]) + 1) for x in (place_T, place_S))
    visible = visible.of(b)
    left, right = first, start + 1 if visible.causal else last
    if visible.window is not None:
        left, right = max(first, end - 1 - visible.window), min(right, start + visible.window + 1)
    if visible.segment_BT is not None or visible.also is not None:
        left = right = last
    edges = (slice(0, left - first), slice(min(right, last) - first, last - first))
    return [(s, ~visible.mask(place_T[:, None], place_S[s]).unsqueeze(-3)) for s in edges if s.start < s.stop]


def _tile(q_BGRTD, k_BGSD, v_BGSE, hidden, distance_TS, sink_BGRT, softcap, slope_GR1) -> AttentionSums:
    """The sums of a tile of queries, q already scaled; H is still (G, R) in what it returns."""
    R, T = q_BGRTD.shape[2:4]
    score_BGRTS = (q_BGRTD.flatten(2, 3) @ k_BGSD.mT).unflatten(2, (R, T))
    if softcap is not None:
        score_BGRTS.div_(softcap).tanh_().mul_(softcap)
    if slope_GR1 is not None:
        score_BGRTS.addcmul_(slope_GR1[..., None], distance_TS, value=-1)
    for columns, mask in hidden:
        score_BGRTS[..., columns].masked_fill_(mask, HIDDEN)
    top_BGRT = score_BGRTS.amax(-1)
    sees_BGRT = top_BGRT > HIDDEN
    if sink_BGRT is not None:
        top_BGRT = torch.maximum(top_BGRT, sink_BGRT)
    top_BGRT = torch.where(sees_BGRT, top_BGRT, 0)
    score_BGRTS.sub_(top_BGRT[..., None]).clamp_(min=LEAST[score_BGRTS.dtype])
    p_BGRTS = score_BGRTS.exp()
    for columns, mask in hidden:
        p_BGRTS[..., columns].masked_fill_(mask, 0)
    norm_BGRT, surprise_BGRT = p_BGRTS.sum(-1), score_BGRTS.mul_(p_BGRTS).sum(-1)
    if sink_BGRT is not None:
        sinking_BGRT = (sink_BGRT - top_BGRT).exp() * sees_BGRT
        norm_BGRT += sinking_BGRT
        surprise_BGRT += torch.xlogy(sinking_BGRT, sinking_BGRT)
    norm_BGRT = torch.where(sees_BGRT, norm_BGRT, 1)
    share_BGRT = 1 / norm_BGRT
    return AttentionSums(
        out_BHTE=(p_BGRTS.flatten(2, 3) @ v_BGSE).unflatten(2, (R, T)) * share_BGRT[..., None],
        lse_BHT=torch.where(sees_BGRT, top_BGRT + norm_BGRT.log(), -torch.inf),
        entropy_BHT=norm_BGRT.log() - surprise_BGRT * share_BGRT,
        distance_BHT=torch.einsum("bgrts,ts->bgrt", p_BGRTS, distance_TS) * share_BGRT,
        received_BHS=(share_BGRT[..., None, :] @ p_BGRTS).squeeze(-2),
    )
