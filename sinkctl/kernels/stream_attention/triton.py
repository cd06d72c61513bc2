"""`stream_attention` as one Triton kernel: a running softmax over the sink logit, the band, then the strip.

One program holds a tile of queries of one head, rotated for the band, then un-rotated for the strip. Only the tiles of
keys at the band's two edges are masked; they come first, in one loop. On Hopper keys and values come by descriptors
(TMA). ALiBi falls by an integer distance times the head's slope, in units of ln 2 as the scores are. Shapes as in
`reference.py`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from sinkctl.kernels import present
from sinkctl.kernels.stream_attention.reference import Strip

LOG2E = 1.4426950408889634


@triton.jit
def _scores(product, scale, softcap, HAS_CAP: tl.constexpr):
    """(x, unit), x·unit being scores in units of ln 2 (`scale` holds that factor), so that one multiply-add is left."""
    if HAS_CAP:  # tanh(x) = 1 − 2 / (2^(2x/ln 2) + 1)
        product = softcap * (1 - 2 / (tl.exp2(product * scale * (2 / softcap)) + 1)) * 1.4426950408889634
        scale = 1.0
    return product, scale


@triton.jit
def _attend(m, norm, acc, x, unit, v):
    """One step of the running softmax over a tile of keys."""
    m_new = tl.maximum(m, tl.max(x, 1) * unit)
    p = tl.exp2(x * unit - m_new[:, None])
    shrink = tl.exp2(m - m_new)
    acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None])
    return m_new, norm * shrink + tl.sum(p, 1), acc


@triton.jit
def load_rows(
    x, b, g, start, j, bound, xb, xg, xs,
    W: tl.constexpr, PW: tl.constexpr, BN: tl.constexpr, MASKED: tl.constexpr, DESCRIBED: tl.constexpr,
):  # fmt: skip
    """Rows `start` to `start` + BN of a head's keys or values, zeros outside."""
    if DESCRIBED:
        tile = x.load([b, g, start, 0]).reshape(BN, PW)
    else:
        w = tl.arange(0, PW)
        place = x + b.to(tl.int64) * xb + g.to(tl.int64) * xg + j.to(tl.int64)[:, None] * xs + w[None, :]
        if PW == W and not MASKED:
            tile = tl.load(place)
        else:
            tile = tl.load(place, (j[:, None] < bound) & (w[None, :] < W), 0.0)
    return tile


@triton.jit
def _band(
    m, norm, acc, q, k, v, kb, kg, ks, vb, vg, vs, b, g, here, first, steps, jump_at, jump, S, window, scale, softcap,
    fall, D: tl.constexpr, E: tl.constexpr, PD: tl.constexpr, PE: tl.constexpr, BN: tl.constexpr,
    MASKED: tl.constexpr, DESCRIBED: tl.constexpr, HAS_CAP: tl.constexpr, HAS_SLOPE: tl.constexpr,
):  # fmt: skip
    """`steps` tiles of keys from `first` on, `jump` keys left out before step `jump_at`."""
    for step in tl.range(0, steps):
        start = first + step * BN
        if MASKED:
            start = tl.where(step < jump_at, start, start + jump)
        start = tl.multiple_of(start, BN)
        j = start + tl.arange(0, BN)
        k_tile = load_rows(k, b, g, start, j, S, kb, kg, ks, D, PD, BN, MASKED, DESCRIBED)
        x, unit = _scores(tl.dot(q, k_tile.T), scale, softcap, HAS_CAP)
        distance = here[:, None] - j[None, :]
        if HAS_SLOPE:
            x = x * unit - fall * distance.to(tl.float32)
            unit = 1.0
        if MASKED:
            x = tl.where((distance >= 0) & (distance <= window), x, -float("inf"))
        v_tile = load_rows(v, b, g, start, j, S, vb, vg, vs, E, PE, BN, MASKED, DESCRIBED)
        m, norm, acc = _attend(m, norm, acc, x, unit, v_tile)
    return m, norm, acc


# One compilation for every length: rows are aligned whatever these are.
@triton.jit(do_not_specialize=["T", "S", "N", "window"])
def _kernel(
    q, k, v, q_strip, k_strip, v_strip, sink, slope, strip_distance, out,
    qb, qh, qt, kb, kg, ks, vb, vg, vs, rb, rh, rt, ob, oh, ot,
    H, G, T, S, N, window, scale, softcap,
    D: tl.constexpr, E: tl.constexpr, PD: tl.constexpr, PE: tl.constexpr, PN: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, DESCRIBED: tl.constexpr,
    HAS_STRIP: tl.constexpr, HAS_SINK: tl.constexpr, HAS_CAP: tl.constexpr, HAS_SLOPE: tl.constexpr,
):  # fmt: skip
    # Late tiles first: in a dense call they are the longest.
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    b, h = tl.program_id(1) // H, tl.program_id(1) % H
    g = h // (H // G)
    i = tile * BM + tl.arange(0, BM)
    d, e = tl.arange(0, PD), tl.arange(0, PE)
    live = (i[:, None] < T) & (d[None, :] < D)
    rows, b64, h64 = i.to(tl.int64)[:, None], b.to(tl.int64), h.to(tl.int64)
    q_tile = tl.load(q + b64 * qb + h64 * qh + rows * qt + d[None, :], live, 0.0)
    acc = tl.zeros([BM, PE], tl.float32)
    fall = tl.load(slope + h) if HAS_SLOPE else 0.0
    m = tl.zeros([BM], tl.float32) - 1e30  # finite: an edge tile may hide every key from a row
    norm = tl.zeros([BM], tl.float32)
    if HAS_SINK:
        m = tl.maximum(m, tl.load(sink + h).to(tl.float32) * 1.4426950408889634)
        norm += 1.0
    first_query = S - T + tile * BM
    here = S - T + i
    first = tl.maximum(0, first_query - window) // BN * BN
    end = tl.minimum(S, first_query + BM)
    diagonal = tl.maximum(first, (first_query + 1) // BN * BN)
    seen_by_all = tl.maximum(first, tl.cdiv(tl.maximum(0, first_query + BM - 1 - window), BN) * BN)
    seen_by_all = tl.minimum(seen_by_all, diagonal)
    middle = diagonal - seen_by_all
    before = (seen_by_all - first) // BN
    edges = before + tl.cdiv(end - diagonal, BN)
    m, norm, acc = _band(m, norm, acc, q_tile, k, v, kb, kg, ks, vb, vg, vs, b, g, here, first,
                         edges, before, middle, S, window, scale, softcap,
                         fall, D, E, PD, PE, BN, True, DESCRIBED, HAS_CAP, HAS_SLOPE)  # fmt: skip
    m, norm, acc = _band(m, norm, acc, q_tile, k, v, kb, kg, ks, vb, vg, vs, b, g, here, seen_by_all,
                         middle // BN, 0, 0, S, window, scale, softcap,
                         fall, D, E, PD, PE, BN, False, DESCRIBED, HAS_CAP, HAS_SLOPE)  # fmt: skip
    if HAS_STRIP:  # last, where its tiles take the place of the band's
        n = tl.arange(0, PN)
        group = b64 * G + g
        faced = tl.load(q_strip + b64 * rb + h64 * rh + rows * rt + d[None, :], live, 0.0)
        inside = n < N
        k_tile = tl.load(k_strip + (group * N + n[None, :]) * D + d[:, None], inside[None, :] & (d[:, None] < D), 0.0)
        v_tile = tl.load(v_strip + (group * N + n[:, None]) * E + e[None, :], inside[:, None] & (e[None, :] < E), 0.0)
        x, unit = _scores(tl.dot(faced, k_tile), scale, softcap, HAS_CAP)
        if HAS_SLOPE:
            x = x * unit - fall * tl.load(strip_distance + n, inside, 0).to(tl.float32)[None, :]
            unit = 1.0
        m, norm, acc = _attend(m, norm, acc, tl.where(inside[None, :], x, -float("inf")), unit, v_tile)
    target = out + b64 * ob + h64 * oh + rows * ot + e[None, :]
    tl.store(target, (acc / norm[:, None]).to(out.dtype.element_ty), (i[:, None] < T) & (e[None, :] < E))


def tiles(width: int, hopper: bool) -> tuple[int, int, int, int]:
    """Queries and keys a tile, warps, pipeline stages, by the wider of keys and values; what no GPU spills.

    On Hopper two programs a multiprocessor, so that one's products hide the other's softmax.
    """
    if width <= 64 or (hopper and width <= 128):
        return 64, 64, 4, 3
    if width <= 128:
        return 128, 32, 8, 3
    return (64, 64, 4, 2) if hopper else (64, 32, 8, 2)


def described(x_BGSD: Tensor, rows: int, width: int) -> TensorDescriptor | None:
    """x in tiles of `rows` by `width`, as TMA reads it; None where its memory is not laid out for that."""
    aligned = x_BGSD.data_ptr() % 16 == 0 and all(s * x_BGSD.itemsize % 16 == 0 for s in x_BGSD.stride()[:3])
    if not aligned:
        return None
    return TensorDescriptor(x_BGSD, list(x_BGSD.shape), list(x_BGSD.stride()), [1, 1, rows, width])


def triton_attention(
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    v_BGSE: Tensor,
    *,
    scale: float,
    window: int | None = None,
    strip: Strip | None = None,
    sink_logit_H: Tensor | None = None,
    softcap: float | None = None,
    slope_H: Tensor | None = None,
) -> Tensor:
    """As `reference.stream_attention`, for half precision on CUDA; last dimensions contiguous."""
    assert scale > 0  # the greatest product is the greatest score
    (B, H, T, D), (G, S), E = q_BHTD.shape, k_BGSD.shape[1:3], v_BGSE.shape[-1]
    out_BTHE = torch.empty(B, T, H, E, dtype=q_BHTD.dtype, device=q_BHTD.device)  # as the output projection reads it
    out = out_BTHE.transpose(1, 2)
    faced = strip or Strip(q_BHTD, k_BGSD[:, :, :0], v_BGSE[:, :, :0])
    k_strip, v_strip, N = faced.k_BGND.contiguous(), faced.v_BGNE.contiguous(), faced.k_BGND.shape[2]
    PD, PE, PN = (max(16, triton.next_power_of_2(max(1, size))) for size in (D, E, N))
    hopper = present.hopper(q_BHTD)
    BM, BN, warps, stages = tiles(max(PD, PE), hopper)
    assert all(x.stride(-1) == 1 for x in (q_BHTD, k_BGSD, v_BGSE, faced.q_BHTD))
    by_tma = [described(k_BGSD, BN, PD), described(v_BGSE, BN, PE)] if hopper else [None]
    k, v = (k_BGSD, v_BGSE) if None in by_tma else by_tma
    with torch.cuda.device_of(q_BHTD):  # Triton launches on the current device
        _kernel[(triton.cdiv(T, BM), B * H)](
            q_BHTD, k, v, faced.q_BHTD, k_strip, v_strip, sink_logit_H,
            None if slope_H is None else slope_H.float() * LOG2E, faced.distance_N, out,
            *q_BHTD.stride()[:3], *k_BGSD.stride()[:3], *v_BGSE.stride()[:3], *faced.q_BHTD.stride()[:3],
            *out.stride()[:3], H, G, T, S, N, S if window is None else min(window, S), scale * LOG2E, softcap or 0.0,
            D=D, E=E, PD=PD, PE=PE, PN=PN, BM=BM, BN=BN, DESCRIBED=None not in by_tma,
            HAS_STRIP=strip is not None, HAS_SINK=sink_logit_H is not None, HAS_CAP=softcap is not None,
            HAS_SLOPE=slope_H is not None, num_warps=warps, num_stages=stages,
        )  # fmt: skip
    return out
