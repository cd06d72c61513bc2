"""The specification of `query_sums`, in plain torch; where no kernel runs, metrics call its parts as they need them.

Shapes: B batch, H query heads, G key/value heads (H is a multiple of G), R = H/G, T tokens, S keys, K leading keys, D
query/key width, E value width, F the same, C hidden width.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from sinkctl.kernels.column_sums import Visible

SUMMED = 64  # tokens summed by one product
TILE = {"cpu": 128}  # queries at a time, against a band of keys
TILE_ELSEWHERE = 512
TINY = 1e-12  # of `normalize`


class AgainstKeys(NamedTuple):
    """Norms, and queries against the directions of the keys, whatever attention does."""

    query_norm_BHT: Tensor
    key_norm_BGT: Tensor
    first_BHT: Tensor  # q_t·k_1/‖k_1‖
    others_BHT: Tensor  # Σ q_t·k_j/‖k_j‖ over 1 < j ≤ t, or over all j > 1


class QuerySums(NamedTuple):
    """Of each query, and of the keys."""

    against: AgainstKeys
    leading_BHTK: Tensor  # A_tk of the first K keys
    near_BHT: Tensor  # Σ A_tk over keys at most `local` away that are not among these


def query_sums(
    q_BHTD: Tensor,
    k_BGTD: Tensor,
    lse_BHT: Tensor,
    *,
    scale: float,
    visible: Visible,
    leading: int,
    local: int,
    softcap: float | None = None,
    slope_H: Tensor | None = None,
) -> QuerySums:
    """Scores as in `column_sums`, A = exp(score − lse) where a query sees a key and 0 elsewhere; float32 or float64."""

    def part(queries: slice, keys: slice) -> Tensor:
        return attention_part(
            q_BHTD, k_BGTD, lse_BHT, queries, keys, scale=scale, visible=visible, softcap=softcap, slope_H=slope_H
        )

    return QuerySums(
        against_keys(q_BHTD, k_BGTD, visible.causal),
        part(slice(None), slice(0, leading)),
        near_mass(part, q_BHTD.shape[2], visible, leading, local, q_BHTD.device),
    )


def against_keys(q_BHTD: Tensor, k_BGTD: Tensor, causal: bool) -> AgainstKeys:
    """Any window is ignored."""
    precise = torch.promote_types(q_BHTD.dtype, torch.float32)
    q_BHTD, k_BGTD = q_BHTD.to(precise), k_BGTD.to(precise)
    unit_BGTD, q_BGRTD = normalize(k_BGTD, dim=-1, eps=TINY), q_BHTD.unflatten(1, (k_BGTD.shape[1], -1))
    first_BHT = (q_BGRTD @ unit_BGTD[:, :, None, 0, :, None])[..., 0].flatten(1, 2)
    others_BGTD = pad(unit_BGTD[:, :, 1:], (0, 0, 1, 0))
    sum_BGTD = _running_sum(others_BGTD) if causal else others_BGTD.sum(2, keepdim=True)
    others_BHT = (q_BGRTD * sum_BGTD[:, :, None]).sum(-1).flatten(1, 2)
    return AgainstKeys(q_BHTD.norm(dim=-1), k_BGTD.norm(dim=-1), first_BHT, others_BHT)


def attention_part(
    q_BHTD: Tensor,
    k_BGTD: Tensor,
    lse_BHT: Tensor,
    queries: slice,
    keys: slice,
    *,
    scale: float,
    visible: Visible,
    softcap: float | None = None,
    slope_H: Tensor | None = None,
) -> Tensor:
    """A few rows or columns of the attention map: [B, H, queries, keys]."""
    score_BHTS, seen = scores(q_BHTD, k_BGTD, queries, keys, scale, visible, softcap, slope_H)
    return (score_BHTS - lse_BHT[:, :, queries, None].to(score_BHTS.dtype)).exp().masked_fill(~seen, 0.0)


def scores(
    q_BHTD: Tensor,
    k_BGTD: Tensor,
    queries: slice,
    keys: slice,
    scale: float,
    visible: Visible,
    softcap: float | None,
    slope_H: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """(scores, which of them are seen)"""
    precise = torch.promote_types(q_BHTD.dtype, torch.float32)
    place_T = torch.arange(q_BHTD.shape[2], device=q_BHTD.device)
    query_T1, key_S = place_T[queries, None], place_T[keys]
    q_BHTD, k_BGSD = q_BHTD[:, :, queries].to(precise), k_BGTD[:, :, keys].to(precise)
    k_BHSD = k_BGSD.repeat_interleave(q_BHTD.shape[1] // k_BGSD.shape[1], dim=1)
    score_BHTS = (q_BHTD @ k_BHSD.mT) * scale
    if softcap is not None:
        score_BHTS = softcap * torch.tanh(score_BHTS / softcap)
    if slope_H is not None:
        score_BHTS = score_BHTS - slope_H.to(precise)[:, None, None] * (query_T1 - key_S).abs()
    return score_BHTS, visible.mask(query_T1, key_S)


def near_mass(
    part: Callable[[slice, slice], Tensor],
    tokens: int,
    visible: Visible,
    leading: int,
    local: int,
    device: torch.device,
) -> Tensor:
    """`QuerySums.near_BHT` from parts of the attention map, tiles of queries against the band of keys around them."""
    place_T, tile, near = torch.arange(tokens, device=device), TILE.get(device.type, TILE_ELSEWHERE), []
    for start in range(0, tokens, tile):
        end = min(start + tile, tokens)
        last = end if visible.causal else min(end + local, tokens)
        first = min(max(leading, start - local), last)
        distance_TS = (place_T[start:end, None] - place_T[first:last]).abs()
        near.append(part(slice(start, end), slice(first, last)).masked_fill(distance_TS > local, 0.0).sum(-1))
    return torch.cat(near, dim=-1)


def written_norm(x_BGTE: Tensor, gram_HEF: Tensor) -> Tensor:
    """sqrt(xᵀ (WᵀW) x) by query head: ‖W_O^h x‖ without the C channels, [B, H, T], in the precision of WᵀW or wider."""
    wide = torch.promote_types(gram_HEF.dtype, x_BGTE.dtype)
    x_BHTE = x_BGTE.repeat_interleave(gram_HEF.shape[0] // x_BGTE.shape[1], dim=1).to(wide)
    return ((x_BHTE @ gram_HEF.to(wide)) * x_BHTE).sum(-1).clamp(min=0).sqrt()


def _running_sum(x_BGTD: Tensor) -> Tensor:
    """cumsum over tokens, as a triangular product inside tiles: torch's own scans a middle dimension slowly."""
    tokens = x_BGTD.shape[2]
    tiles_BGnTD = pad(x_BGTD, (0, 0, 0, -tokens % SUMMED)).unflatten(2, (-1, SUMMED))
    lower_TT = torch.ones(SUMMED, SUMMED, dtype=x_BGTD.dtype, device=x_BGTD.device).tril()
    sum_BGnD = tiles_BGnTD.sum(3)
    before_BGnD = sum_BGnD.cumsum(2) - sum_BGnD
    return (lower_TT @ tiles_BGnTD + before_BGnD[:, :, :, None]).flatten(2, 3)[:, :, :tokens]
