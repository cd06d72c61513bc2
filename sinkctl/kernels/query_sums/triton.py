"""`query_sums` as two Triton kernels, over tiles of keys, then of queries, and `written_norm` as a third.

What `others` needs of earlier tiles is a running sum of unit keys, a vector a tile; inside a tile it is the product of
queries and keys that the near keys need too. Scores and log-sum-exp are in units of ln 2. Shapes as in `reference.py`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sinkctl.kernels.column_sums import Visible
from sinkctl.kernels.column_sums.triton import LOG2E, load_columns, scores
from sinkctl.kernels.query_sums.reference import AgainstKeys, QuerySums

TOKENS = 64  # a tile
PARTS, COLUMNS = 3, 32  # of WᵀW, and columns of it at a time: four programs a multiprocessor (sm_90)


@triton.jit(do_not_specialize=["tiles"])
def _keys(
    k, norm, sums, kb, kg, kt, G, T, tiles, D: tl.constexpr, PD: tl.constexpr, BT: tl.constexpr
):  # fmt: skip
    """Norms, and, where they are asked for, the sums of a tile's unit keys, the first token's left out."""
    tile, b, g = tl.program_id(0), (tl.program_id(1) // G).to(tl.int64), (tl.program_id(1) % G).to(tl.int64)
    j, d = tile * BT + tl.arange(0, BT), tl.arange(0, PD)
    here = (j < T)[:, None] & (d < D)[None, :]
    keys = tl.load(k + b * kb + g * kg + j.to(tl.int64)[:, None] * kt + d[None, :], here, 0.0).to(tl.float32)
    norms = tl.sqrt(tl.sum(keys * keys, 1))
    tl.store(norm + (b * G + g) * T + j, norms, j < T)
    if sums is not None:
        unit = tl.where((j > 0)[:, None], keys / tl.maximum(norms, 1e-12)[:, None], 0.0)
        tl.store(sums + ((b * G + g) * D + d) * tiles + tile, tl.sum(unit, 0), d < D)


@triton.jit
def _given(product, i, j, lse, scale, softcap, fall, reach, HAS_CAP: tl.constexpr, HAS_SLOPE: tl.constexpr):
    """A of a tile, [i, j]: 0 beyond the reach and after the query."""
    distance = i[:, None] - j[None, :]
    x, unit = scores(product, distance, scale, softcap, fall, HAS_CAP, HAS_SLOPE)
    return tl.where((distance >= 0) & (distance <= reach), tl.exp2(x * unit - lse[:, None]), 0.0)


@triton.jit(do_not_specialize=["tiles", "K", "window", "local"])
def _queries(
    q, k, slope, lse, key_norm, upto, norm_out, first_out, others_out, leading_out, near_out,
    qb, qh, qt, kb, kg, kt, H, G, T, tiles, K, window, local, scale, softcap,
    D: tl.constexpr, PD: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr,
    HAS_CAP: tl.constexpr, HAS_SLOPE: tl.constexpr,
):  # fmt: skip
    tile, b, h = tl.program_id(0), (tl.program_id(1) // H).to(tl.int64), (tl.program_id(1) % H).to(tl.int64)
    g, start = h // (H // G), tile * BT
    i, d = start + tl.arange(0, BT), tl.arange(0, PD)
    live, inside = i < T, d < D
    q_tile = tl.load(
        q + b * qb + h * qh + i.to(tl.int64)[:, None] * qt + d[None, :], live[:, None] & inside[None, :], 0.0
    )
    wide = q_tile.to(tl.float32)
    k, key_norm, row = k + b * kb + g * kg, key_norm + (b * G + g) * T, (b * H + h) * T + i
    tl.store(norm_out + row, tl.sqrt(tl.sum(wide * wide, 1)), live)
    first = tl.load(k + d, inside, 0.0).to(tl.float32) / tl.maximum(tl.load(key_norm), 1e-12)
    tl.store(first_out + row, tl.sum(wide * first[None, :], 1), live)
    before = tl.load(upto + ((b * G + g) * D + d) * tiles + tile - 1, inside & (tile > 0), 0.0)
    others = tl.sum(wide * before[None, :], 1)
    lse_tile = tl.load(lse + row, live, 0.0) * 1.4426950408889634
    fall = tl.load(slope + h) if HAS_SLOPE else 0.0
    reach, near = tl.minimum(window, local), tl.zeros([BT], tl.float32)
    for key in tl.range(tl.maximum(0, start - reach) // BT * BT, start + BT, BT):
        j = key + tl.arange(0, BT)
        product = tl.dot(q_tile, load_columns(k, j, kt, T, D, PD, True))
        if key == start:
            unit = 1 / tl.maximum(tl.load(key_norm + j, j < T, 1.0), 1e-12)
            others += tl.sum(tl.where((j[None, :] <= i[:, None]) & (j > 0)[None, :], product * unit[None, :], 0.0), 1)
        a = _given(product, i, j, lse_tile, scale, softcap, fall, reach, HAS_CAP, HAS_SLOPE)
        near += tl.sum(tl.where((j >= K)[None, :], a, 0.0), 1)
    tl.store(others_out + row, others, live)
    tl.store(near_out + row, near, live)
    for key in tl.range(0, K, BK):
        j = key + tl.arange(0, BK)
        product = tl.dot(q_tile, load_columns(k, j, kt, T, D, PD, True))
        a = _given(product, i, j, lse_tile, scale, softcap, fall, window, HAS_CAP, HAS_SLOPE)
        tl.store(leading_out + row[:, None] * K + j[None, :], a, live[:, None] & (j < K)[None, :])


@triton.jit
def _written(
    x, parts, out, xb, xg, xt, H, G, T,
    E: tl.constexpr, PE: tl.constexpr, BT: tl.constexpr, BF: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """xᵀ (WᵀW) x, WᵀW the sum of its parts, of which the first is the greatest by far.

    It comes last: matrix units cut off what a step adds below the last bits of the sum, which is small until then.
    """
    b, h = (tl.program_id(1) // H).to(tl.int64), (tl.program_id(1) % H).to(tl.int64)
    i, e = tl.program_id(0) * BT + tl.arange(0, BT), tl.arange(0, PE)
    rows, live = x + b * xb + h // (H // G) * xg + i.to(tl.int64)[:, None] * xt, (i < T)[:, None]
    tile, total = tl.load(rows + e[None, :], live & (e < E)[None, :], 0.0), tl.zeros([BT], tl.float32)
    for column in range(0, E, BF):
        f = column + tl.arange(0, BF)
        product = tl.zeros([BT, BF], tl.float32)
        for part in tl.static_range(PARTS - 1, -1, -1):
            square = parts + (part * H + h) * E * E + e[:, None] * E + f[None, :]
            product = tl.dot(tile, tl.load(square, (e < E)[:, None] & (f < E)[None, :], 0.0), product)
        total += tl.sum(product * tl.load(rows + f[None, :], live & (f < E)[None, :], 0.0).to(tl.float32), 1)
    tl.store(out + (b * H + h) * T + i, total, i < T)


def fused_sums(
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
    """As `reference.query_sums`, for causal half precision on CUDA, D ≤ 256; last dimensions contiguous.

    Padding at the end of a sample is not looked at: what is found for it means nothing.
    """
    assert visible.causal
    assert visible.also is None
    assert q_BHTD.stride(-1) == k_BGTD.stride(-1) == 1
    (B, H, T, D), G = q_BHTD.shape, k_BGTD.shape[1]
    tiles, PD = triton.cdiv(T, TOKENS), max(16, triton.next_power_of_2(D))
    norm, first, others, near = q_BHTD.new_empty(4, B, H, T, dtype=torch.float32)
    key_norm, sums = (norm.new_empty(B, G, *shape) for shape in ((T,), (D, tiles)))
    leading_BHTK = norm.new_empty(B, H, T, leading)
    slope = None if slope_H is None else slope_H.float() * LOG2E
    window = T if visible.window is None else min(visible.window, T)
    with torch.cuda.device_of(q_BHTD):  # Triton launches on the current device
        _keys[(tiles, B * G)](k_BGTD, key_norm, sums, *k_BGTD.stride()[:3], G, T, tiles, D=D, PD=PD, BT=TOKENS)
        _queries[(tiles, B * H)](
            q_BHTD, k_BGTD, slope, lse_BHT.contiguous(), key_norm, sums.cumsum(-1), norm, first, others, leading_BHTK,
            near, *q_BHTD.stride()[:3], *k_BGTD.stride()[:3], H, G, T, tiles, leading, window, min(local, T),
            scale * LOG2E, softcap or 0.0, D=D, PD=PD, BT=TOKENS, BK=16,
            HAS_CAP=softcap is not None, HAS_SLOPE=slope is not None,
        )  # fmt: skip
    return QuerySums(AgainstKeys(norm, key_norm, first, others), leading_BHTK, near)


def fused_norm(x_BGTE: Tensor) -> Tensor:
    """‖x‖ over the last dimension in float32, for half precision on CUDA."""
    assert x_BGTE.stride(-1) == 1
    (B, G, T, E), tiles = x_BGTE.shape, triton.cdiv(x_BGTE.shape[2], TOKENS)
    norm_BGT, PE = x_BGTE.new_empty(B, G, T, dtype=torch.float32), max(16, triton.next_power_of_2(E))
    with torch.cuda.device_of(x_BGTE):
        _keys[(tiles, B * G)](x_BGTE, norm_BGT, None, *x_BGTE.stride()[:3], G, T, tiles, D=E, PD=PE, BT=TOKENS)
    return norm_BGT


def fused_written(x_BGTE: Tensor, gram_HEF: Tensor) -> Tensor:
    """As `reference.written_norm`, for half precision on CUDA and WᵀW in float32.

    WᵀW, scaled by a power of 4 to about 1, is the sum of three matrices of half precision, to the last bit of float32
    but for what is 2^−24 of its greatest element; their products with x are exact, and added up in float32.
    """
    assert x_BGTE.stride(-1) == 1
    (B, G, T, E), H = x_BGTE.shape, len(gram_HEF)
    half_H, parts = gram_HEF.abs().amax((1, 2)).frexp().exponent // 2, []
    left_HEF = gram_HEF.ldexp(-2 * half_H[:, None, None])
    for _ in range(PARTS):
        parts.append(left_HEF.to(x_BGTE.dtype))
        left_HEF = left_HEF - parts[-1]
    out_BHT, PE = x_BGTE.new_empty(B, H, T, dtype=torch.float32), max(16, triton.next_power_of_2(E))
    BT = 128 if PE <= 128 else 64  # tokens a tile
    with torch.cuda.device_of(x_BGTE):
        _written[(triton.cdiv(T, BT), B * H)](
            x_BGTE, torch.stack(parts), out_BHT, *x_BGTE.stride()[:3], H, G, T,
            E=E, PE=PE, BT=BT, BF=COLUMNS, PARTS=PARTS, num_stages=1,
        )  # fmt: skip
    return out_BHT.clamp_(min=0).sqrt_().ldexp(half_H[:, None])
