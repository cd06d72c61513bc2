"""`column_sums` as two Triton kernels for causal attention: over rows, then, knowing their log-sum-exp, over columns.

The rows are flash attention that carries two more running sums. In the columns one program keeps a tile of keys on
chip and adds up what each tile of queries gives them: no atomics, so that two runs are equal. Only the tiles at the
two edges of the visible band are masked. On Hopper the rows' keys and values come by descriptors (TMA). Scores and
log-sum-exp are in units of ln 2. Shapes as in `reference.py`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sinkctl.kernels import present
from sinkctl.kernels.column_sums.reference import AttentionSums, Visible
from sinkctl.kernels.stream_attention.triton import described, load_rows

LOG2E = 1.4426950408889634
KEYS = 64  # a tile, where they come by descriptors


@triton.jit
def scores(product, distance, scale, softcap, fall, HAS_CAP: tl.constexpr, HAS_SLOPE: tl.constexpr):
    """(x, unit), x·unit being the scores: the product itself, its scaling left to a later multiply-add, if possible."""
    unit = scale
    if HAS_CAP:  # tanh(x) = 1 − 2 / (2^(2x/ln 2) + 1)
        product = softcap * (1 - 2 / (tl.exp2(product * unit * (2 / softcap)) + 1)) * 1.4426950408889634
        unit = 1.0
    if HAS_SLOPE:
        product = product * unit - fall * distance.to(tl.float32)
        unit = 1.0
    return product, unit


@triton.jit
def load_columns(x, i, stride, bound, D: tl.constexpr, PD: tl.constexpr, MASKED: tl.constexpr):
    """Rows i of a matrix as columns: [PD, i], zeros outside."""
    d = tl.arange(0, PD)[:, None]
    if PD == D and not MASKED:
        tile = tl.load(x + d + i.to(tl.int64)[None, :] * stride)
    else:
        tile = tl.load(x + d + i.to(tl.int64)[None, :] * stride, (d < D) & (i[None, :] < bound), 0.0)
    return tile


@triton.jit
def _attend(
    m, norm, surprise, far, acc, q, k, v, kb, kh, ks, vb, vh, vs, b, g, i, first, end, T, window, scale, softcap, fall,
    D: tl.constexpr, E: tl.constexpr, PD: tl.constexpr, PE: tl.constexpr, BN: tl.constexpr,
    MASKED: tl.constexpr, DESCRIBED: tl.constexpr, HAS_CAP: tl.constexpr, HAS_SLOPE: tl.constexpr,
):  # fmt: skip
    """The running softmax over tiles of keys; surprise is Σ p·(score − m), far is Σ p·distance."""
    n = tl.arange(0, BN)
    for start in tl.range(first, end, BN):
        start = tl.multiple_of(start, BN)
        j = start + n
        distance = i[:, None] - j[None, :]
        product = tl.dot(q, load_rows(k, b, g, start, j, T, kb, kh, ks, D, PD, BN, MASKED, DESCRIBED).T)
        x, unit = scores(product, distance, scale, softcap, fall, HAS_CAP, HAS_SLOPE)
        seen = (j[None, :] <= i[:, None]) & (j[None, :] >= i[:, None] - window)
        if MASKED:  # finite, as a row may see no key of this tile, and as 0·x is to be 0
            x = tl.where(seen, x, -1e30)
        m_new = tl.maximum(m, tl.max(x, 1) * unit)
        x = x * unit - m_new[:, None]
        if MASKED:
            x = tl.where(seen, x, -1e30)
        p = tl.exp2(x)
        mass, shrink = tl.sum(p, 1), tl.exp2(m - m_new)
        surprise = (surprise + norm * (m - m_new)) * shrink + tl.sum(p * x, 1)
        if MASKED:  # where distances may be small, and their difference of larger terms inexact
            far = far * shrink + tl.sum(p * distance.to(tl.float32), 1)
        else:
            far = far * shrink + mass * (i - start).to(tl.float32) - tl.sum(p * n.to(tl.float32)[None, :], 1)
        norm, m = norm * shrink + mass, m_new
        v_tile = load_rows(v, b, g, start, j, T, vb, vh, vs, E, PE, BN, MASKED, DESCRIBED)
        acc = tl.dot(p.to(v_tile.dtype), v_tile, acc * shrink[:, None])
    return m, norm, surprise, far, acc


@triton.jit(do_not_specialize=["T", "window"])  # one compilation for every length
def _rows(
    q, k, v, sink, slope, out, lse, entropy, far_out,
    qb, qh, qt, kb, kh, ks, vb, vh, vs, ob, oh, ot, H, G, T, window, scale, softcap,
    D: tl.constexpr, E: tl.constexpr, PD: tl.constexpr, PE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    DESCRIBED: tl.constexpr, HAS_SINK: tl.constexpr, HAS_CAP: tl.constexpr, HAS_SLOPE: tl.constexpr,
):  # fmt: skip
    # Late tiles first: without a window they are the longest.
    start = (tl.num_programs(0) - 1 - tl.program_id(0)) * BM
    b, h = tl.program_id(1) // H, tl.program_id(1) % H
    g = h // (H // G)
    b64, h64 = b.to(tl.int64), h.to(tl.int64)
    i = start + tl.arange(0, BM)
    d, e = tl.arange(0, PD), tl.arange(0, PE)
    rows = i.to(tl.int64)[:, None]
    live = i < T
    q_tile = tl.load(q + b64 * qb + h64 * qh + rows * qt + d[None, :], live[:, None] & (d[None, :] < D), 0.0)
    fall = tl.load(slope + h) if HAS_SLOPE else 0.0
    zero = tl.zeros([BM], tl.float32)
    m, norm, surprise, far, acc = zero - 1e30, zero, zero, zero, tl.zeros([BM, PE], tl.float32)
    if HAS_SINK:
        m, norm = zero + tl.maximum(tl.load(sink + h).to(tl.float32) * 1.4426950408889634, -1e30), zero + 1.0
    first = tl.maximum(0, start - window) // BN * BN
    diagonal = tl.maximum(first, (start + 1) // BN * BN)
    seen_by_all = tl.cdiv(tl.maximum(0, start + BM - 1 - window), BN) * BN
    seen_by_all = tl.minimum(tl.maximum(first, seen_by_all), diagonal)
    end = tl.minimum(T, start + BM)
    m, norm, surprise, far, acc = _attend(
        m, norm, surprise, far, acc, q_tile, k, v, kb, kh, ks, vb, vh, vs, b, g, i, first, seen_by_all, T,
        window, scale, softcap, fall, D, E, PD, PE, BN, True, DESCRIBED, HAS_CAP, HAS_SLOPE)  # fmt: skip
    m, norm, surprise, far, acc = _attend(
        m, norm, surprise, far, acc, q_tile, k, v, kb, kh, ks, vb, vh, vs, b, g, i, seen_by_all, diagonal, T,
        window, scale, softcap, fall, D, E, PD, PE, BN, False, DESCRIBED, HAS_CAP, HAS_SLOPE)  # fmt: skip
    m, norm, surprise, far, acc = _attend(
        m, norm, surprise, far, acc, q_tile, k, v, kb, kh, ks, vb, vh, vs, b, g, i, diagonal, end, T,
        window, scale, softcap, fall, D, E, PD, PE, BN, True, DESCRIBED, HAS_CAP, HAS_SLOPE)  # fmt: skip
    target = out + b64 * ob + h64 * oh + rows * ot + e[None, :]
    tl.store(target, (acc / norm[:, None]).to(out.dtype.element_ty), live[:, None] & (e[None, :] < E))
    row, log_norm = (b64 * H + h) * T + i, tl.log2(norm)
    tl.store(lse + row, m + log_norm, live)
    tl.store(entropy + row, (log_norm - surprise / norm) * 0.6931471805599453, live)
    tl.store(far_out + row, far / norm, live)


@triton.jit
def _receive(
    received, q, k, lse, qt, j, first, end, T, window, scale, softcap, fall,
    D: tl.constexpr, PD: tl.constexpr, BM: tl.constexpr,
    MASKED: tl.constexpr, HAS_CAP: tl.constexpr, HAS_SLOPE: tl.constexpr,
):  # fmt: skip
    """What a tile of keys receives from tiles of queries."""
    for start in tl.range(first, end, BM):
        i = start + tl.arange(0, BM)
        lse_tile = tl.load(lse + i, i < T, float("inf")) if MASKED else tl.load(lse + i)
        product = tl.dot(k, load_columns(q, i, qt, T, D, PD, MASKED))
        distance = i[None, :] - j[:, None]
        x, unit = scores(product, distance, scale, softcap, fall, HAS_CAP, HAS_SLOPE)
        p = tl.exp2(x * unit - lse_tile[None, :])
        if MASKED:
            p = tl.where((i[None, :] >= j[:, None]) & (i[None, :] <= j[:, None] + window), p, 0.0)
        received += tl.sum(p, 1)
    return received


@triton.jit(do_not_specialize=["window"])  # T tells how the log-sum-exp of a head is aligned
def _columns(
    q, k, slope, lse, out, qb, qh, qt, kb, kh, ks, H, G, T, window, scale, softcap,
    D: tl.constexpr, PD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    HAS_CAP: tl.constexpr, HAS_SLOPE: tl.constexpr,
):  # fmt: skip
    start = tl.program_id(0) * BN  # early tiles first: without a window they are the longest
    b, h = (tl.program_id(1) // H).to(tl.int64), (tl.program_id(1) % H).to(tl.int64)
    g = h // (H // G)
    j, d = start + tl.arange(0, BN), tl.arange(0, PD)
    k_tile = tl.load(
        k + b * kb + g * kh + j.to(tl.int64)[:, None] * ks + d[None, :], (j < T)[:, None] & (d[None, :] < D), 0.0
    )
    fall = tl.load(slope + h) if HAS_SLOPE else 0.0
    q, row = q + b * qb + h * qh, (b * H + h) * T
    diagonal = start + tl.cdiv(BN, BM) * BM
    seeing_all = diagonal + tl.maximum(0, tl.minimum(T, start + window + 1) - diagonal) // BM * BM
    end = tl.minimum(T, start + BN + window)
    received = tl.zeros([BN], tl.float32)
    received = _receive(received, q, k_tile, lse + row, qt, j, start, tl.minimum(diagonal, end), T, window, scale,
                        softcap, fall, D, PD, BM, True, HAS_CAP, HAS_SLOPE)  # fmt: skip
    received = _receive(received, q, k_tile, lse + row, qt, j, diagonal, seeing_all, T, window, scale,
                        softcap, fall, D, PD, BM, False, HAS_CAP, HAS_SLOPE)  # fmt: skip
    received = _receive(received, q, k_tile, lse + row, qt, j, seeing_all, end, T, window, scale,
                        softcap, fall, D, PD, BM, True, HAS_CAP, HAS_SLOPE)  # fmt: skip
    tl.store(out + row + j, received, j < T)


def row_tiles(width: int, hopper: bool, described: bool) -> tuple[int, int, int, int]:
    """Queries and keys a tile, warps, pipeline stages, by the wider of keys and values; what no GPU spills.

    By descriptors two programs a multiprocessor are faster (32,768 tokens of width 128: 18.4 ms, one 20.1), else not.
    """
    if described:
        return 64, KEYS, 4, 3
    if width <= 64:
        return 64, 64, 4, 3 if hopper else 2
    if width <= 128:
        return 128, 64, 8, 3
    return (128, 32, 8, 2) if hopper else (64, 32, 8, 2)


def column_tiles(width: int) -> tuple[int, int, int, int]:
    """The same for the columns, by the width of keys; registers for two programs a multiprocessor (sm_90)."""
    return (64, 128, 8, 3) if width <= 128 else (64, 64, 4, 2)


def triton_sums(
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
    """As `reference.column_sums`, for causal half precision on CUDA, D and E ≤ 256; last dimensions contiguous."""
    assert visible.causal
    assert visible.segment_BT is None
    assert visible.also is None
    assert sink_logit_H is None or sink_logit_H.dim() == 1
    assert scale > 0  # the greatest product is the greatest score
    assert all(x.stride(-1) == 1 for x in (q_BHTD, k_BGSD, v_BGSE))
    (B, H, T, D), G, E = q_BHTD.shape, k_BGSD.shape[1], v_BGSE.shape[-1]
    out = q_BHTD.new_empty(B, T, H, E).transpose(1, 2)  # as the output projection reads it
    lse, entropy, distance, received = q_BHTD.new_empty(4, B, H, T, dtype=torch.float32)
    slope = None if slope_H is None else slope_H.float() * LOG2E
    PD, PE = (max(16, triton.next_power_of_2(width)) for width in (D, E))
    window = T if visible.window is None else min(visible.window, T)
    hopper = present.hopper(q_BHTD)
    bends = dict(HAS_CAP=softcap is not None, HAS_SLOPE=slope is not None)
    with torch.cuda.device_of(q_BHTD):  # Triton launches on the current device
        by_tma = [None]
        if hopper and 64 < max(PD, PE) <= 128:
            by_tma = [described(k_BGSD, KEYS, PD), described(v_BGSE, KEYS, PE)]
        k, v = (k_BGSD, v_BGSE) if None in by_tma else by_tma
        BM, BN, warps, stages = row_tiles(max(PD, PE), hopper, None not in by_tma)
        _rows[(triton.cdiv(T, BM), B * H)](
            q_BHTD, k, v, sink_logit_H, slope, out, lse, entropy, distance,
            *q_BHTD.stride()[:3], *k_BGSD.stride()[:3], *v_BGSE.stride()[:3], *out.stride()[:3],
            H, G, T, window, scale * LOG2E, softcap or 0.0, D=D, E=E, PD=PD, PE=PE, BM=BM, BN=BN, **bends,
            DESCRIBED=None not in by_tma, HAS_SINK=sink_logit_H is not None, num_warps=warps, num_stages=stages,
        )  # fmt: skip
        BM, BN, warps, stages = column_tiles(PD)
        _columns[(triton.cdiv(T, BN), B * H)](
            q_BHTD, k_BGSD, slope, lse, received, *q_BHTD.stride()[:3], *k_BGSD.stride()[:3],
            H, G, T, window, scale * LOG2E, softcap or 0.0, D=D, PD=PD, BM=BM, BN=BN,
            **bends, num_warps=warps, num_stages=stages,
        )  # fmt: skip
    lse /= LOG2E
    return AttentionSums(out, lse, entropy, distance, received)
