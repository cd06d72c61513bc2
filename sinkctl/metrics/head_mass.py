"""Where a head's attention goes: to sinks, near the query, elsewhere, or out of the sequence.

N samples, H query heads, T queries, S keys.
"""

import torch
from torch import Tensor

from sinkctl.kernels.column_sums import Visible, select
from sinkctl.metrics.learned import learned_mass
from sinkctl.metrics.views import AttentionView, Scope

TILE = 128  # queries at a time, against a band of TILE + local keys


def mass_split(view: AttentionView, scope: Scope) -> Tensor:
    """Mean over queries of the mass on four classes that sum to 1 (where attention's weights do): [N, H, 4].

    The first `sinks` keys; other keys at most `local` away, the query itself included; the rest; the sink logit.
    """
    received_NHS = torch.where(view.real_NT[:, None], view.sums.received_BHS, 0.0)
    queries_N1 = view.length_N[:, None]
    sinks_NH = received_NHS[..., : scope.sinks].sum(-1) / queries_N1
    local_NH = _near(view, scope) / queries_N1
    rest_NH = (received_NHS.sum(-1) / queries_N1 - sinks_NH - local_NH).clamp(min=0)
    learned_NH = learned_mass(view, scope)
    learned_NH = torch.zeros_like(rest_NH) if learned_NH is None else learned_NH
    return torch.stack([sinks_NH, local_NH, rest_NH, learned_NH], dim=-1)


def _near(view: AttentionView, scope: Scope) -> Tensor:
    """Sum over queries of the mass on keys at most `local` away and not among the first `sinks`: [N, H].

    Where the mask is plainly causal, attention over that band alone says it: exp(lse of the band − lse).
    """
    if view.visible.causal and view.visible.also is None and view.k_NGTD.shape[-1] and view.weigh is None:
        return _near_causal(view, scope)
    T = view.real_NT.shape[1]
    place_T = torch.arange(T, device=view.real_NT.device)
    near_NH = torch.zeros_like(view.sums.lse_BHT[..., 0])
    for start in range(0, T, TILE):
        end = min(start + TILE, T)
        first = max(scope.sinks, start - scope.local)
        last = end if view.visible.causal else min(end + scope.local, T)
        if first < last:
            a_NHTS = view.attention(slice(start, end), slice(first, last))
            distance_TS = (place_T[start:end, None] - place_T[first:last]).abs()
            near_NH += a_NHTS.masked_fill(distance_TS > scope.local, 0.0).sum((-2, -1))
    return near_NH


def _near_causal(view: AttentionView, scope: Scope) -> Tensor:
    q_NHTD, k_NGTD, v_NGTE = (x[:, :, scope.sinks :] for x in (view.q_NHTD, view.k_NGTD, view.v_NGTE))
    if not q_NHTD.shape[2]:
        return torch.zeros_like(view.sums.lse_BHT[..., 0])
    window = scope.local if view.visible.window is None else min(scope.local, view.visible.window)
    visible = Visible(window=window)
    kernel, _ = select(q_NHTD, v_NGTE, visible)
    band = kernel(q_NHTD, k_NGTD, v_NGTE, scale=view.scale, visible=visible, softcap=view.softcap, slope_H=view.slope_H)
    share_NHT = (band.lse_BHT - view.sums.lse_BHT[:, :, scope.sinks :]).exp()
    return share_NHT.masked_fill(~view.real_NT[:, None, scope.sinks :], 0.0).sum(-1)
