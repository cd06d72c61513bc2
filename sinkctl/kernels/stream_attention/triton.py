"""`stream_attention` as one Triton kernel: the sink logit and the strip seed the running softmax, then the band.

One program holds a tile of queries of one head, rotated for the band and un-rotated for the strip. ALiBi falls by an
integer distance times the head's slope, in units of ln 2 as the scores are. Only the tiles of
keys at the band's two edges are masked. Shapes as in `reference.py`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sinkctl.kernels.stream_attention.reference import Strip

LOG2E = 1.4426950408889634


@triton.jit
def _scores(product, scale, softcap, HAS_CAP: tl.constexpr):
    """Scores in units of ln 2 (`scale` holds that factor); tanh(x) = 1 − 2 / (2^(2x/ln 2) + 1)."""
    if HAS_CAP:
        return softcap * (1 - 2 / (tl.exp2(product * scale * (2 / softcap)) + 1)) * 1.4426950408889634
    return product * scale


@triton.jit
def _attend(m, norm, acc, score, v):
    """One step of the running softmax over a tile of keys."""
    m_new = tl.maximum(m, tl.max(score, 1))
    p = tl.exp2(score - m_new[:, None])
    shrink = tl.exp2(m - m_new)
    acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None])
    return m_new, norm * shrink + tl.sum(p, 1), acc


@triton.jit
def _band(
    m, norm, acc, q, k, v, ks, vs, here, first, end, S, window, scale, softcap, fall,
    D: tl.constexpr, E: tl.constexpr, PD: tl.constexpr, PE: tl.constexpr, BN: tl.constexpr,
    MASKED: tl.constexpr, HAS_CAP: tl.constexpr, HAS_SLOPE: tl.constexpr,
):  # fmt: skip
    d, e = tl.arange(0, PD), tl.arange(0, PE)
    for start in tl.range(first, end, BN):
        j = start + tl.arange(0, BN)
        inside = j < S
        if PD == D and not MASKED:
            k_tile = tl.load(k + d[:, None] + j.to(tl.int64)[None, :] * ks)
        else:
            k_tile = tl.load(k + d[:, None] + j.to(tl.int64)[None, :] * ks, (d[:, None] < D) & inside[None, :], 0.0)
        score = _scores(tl.dot(q, k_tile), scale, softcap, HAS_CAP)
        distance = here[:, None] - j[None, :]
        if HAS_SLOPE:
            score -= fall * distance.to(tl.float32)
        if MASKED:
            score = tl.where((distance >= 0) & (distance <= window), score, -float("inf"))
        if PE == E and not MASKED:
            v_tile = tl.load(v + j.to(tl.int64)[:, None] * vs + e[None, :])
        else:
            v_tile = tl.load(v + j.to(tl.int64)[:, None] * vs + e[None, :], inside[:, None] & (e[None, :] < E), 0.0)
        m, norm, acc = _attend(m, norm, acc, score, v_tile)
    return m, norm, acc


# One compilation for every length: rows are aligned whatever these are.
@triton.jit(do_not_specialize=["T", "S", "N", "window"])
def _kernel(
    q, k, v, q_strip, k_strip, v_strip, sink, slope, strip_distance, out,
    qb, qh, qt, kb, kh, ks, vb, vh, vs, rb, rh, rt, ob, oh, ot, kn, vn,
    H, G, T, S, N, window, scale, softcap,
    D: tl.constexpr, E: tl.constexpr, PD: tl.constexpr, PE: tl.constexpr, PN: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
    HAS_STRIP: tl.constexpr, HAS_SINK: tl.constexpr, HAS_CAP: tl.constexpr, HAS_SLOPE: tl.constexpr,
):  # fmt: skip
    # Late tiles first: in a dense call they are the longest.
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    b, h = (tl.program_id(1) // H).to(tl.int64), (tl.program_id(1) % H).to(tl.int64)
    g = h // (H // G)
    i = tile * BM + tl.arange(0, BM)
    d, e = tl.arange(0, PD), tl.arange(0, PE)
    live = (i[:, None] < T) & (d[None, :] < D)
    rows = i.to(tl.int64)[:, None]
    q_tile = tl.load(q + b * qb + h * qh + rows * qt + d[None, :], live, 0.0)
    acc = tl.zeros([BM, PE], tl.float32)
    fall = tl.load(slope + h) if HAS_SLOPE else 0.0
    if HAS_SINK:
        m = tl.zeros([BM], tl.float32) + tl.load(sink + h).to(tl.float32) * 1.4426950408889634
        norm = tl.zeros([BM], tl.float32) + 1.0
    else:
        m = tl.zeros([BM], tl.float32) - 1e30  # finite: an edge tile may hide every key from a row
        norm = tl.zeros([BM], tl.float32)
    if HAS_STRIP:
        n = tl.arange(0, PN)
        group = b * G + g
        faced = tl.load(q_strip + b * rb + h * rh + rows * rt + d[None, :], live, 0.0)
        k_tile = tl.load(k_strip + group * kn + n[None, :] * D + d[:, None], (n[None, :] < N) & (d[:, None] < D), 0.0)
        v_tile = tl.load(v_strip + group * vn + n[:, None] * E + e[None, :], (n[:, None] < N) & (e[None, :] < E), 0.0)
        score = _scores(tl.dot(faced, k_tile), scale, softcap, HAS_CAP)
        if HAS_SLOPE:
            score -= fall * tl.load(strip_distance + n, n < N, 0).to(tl.float32)[None, :]
        m, norm, acc = _attend(m, norm, acc, tl.where(n[None, :] < N, score, -float("inf")), v_tile)
    first_query = S - T + tile * BM
    here = S - T + i
    first = tl.maximum(0, first_query - window) // BN * BN
    end = tl.minimum(S, first_query + BM)
    seen_by_all = tl.maximum(first, tl.cdiv(tl.maximum(0, first_query + BM - 1 - window), BN) * BN)
    diagonal = tl.maximum(first, (first_query + 1) // BN * BN)
    seen_by_all = tl.minimum(seen_by_all, diagonal)
    k_head, v_head = k + b * kb + g * kh, v + b * vb + g * vh
    m, norm, acc = _band(m, norm, acc, q_tile, k_head, v_head, ks, vs, here, first, seen_by_all, S, window, scale,
                      softcap, fall, D, E, PD, PE, BN, True, HAS_CAP, HAS_SLOPE)  # fmt: skip
    m, norm, acc = _band(m, norm, acc, q_tile, k_head, v_head, ks, vs, here, seen_by_all, diagonal, S, window, scale,
                      softcap, fall, D, E, PD, PE, BN, False, HAS_CAP, HAS_SLOPE)  # fmt: skip
    m, norm, acc = _band(m, norm, acc, q_tile, k_head, v_head, ks, vs, here, diagonal, end, S, window, scale,
                      softcap, fall, D, E, PD, PE, BN, True, HAS_CAP, HAS_SLOPE)  # fmt: skip
    target = out + b * ob + h * oh + rows * ot + e[None, :]
    tl.store(target, (acc / norm[:, None]).to(out.dtype.element_ty), (i[:, None] < T) & (e[None, :] < E))


def tiles(width: int) -> tuple[int, int, int, int]:
    """Queries and keys a tile, warps, pipeline stages, by the wider of keys and values."""
    if width <= 64:
        return 64, 64, 4, 3
    return (128, 64, 8, 3) if width <= 128 else (64, 32, 4, 2)


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
    (B, H, T, D), (G, S), E = q_BHTD.shape, k_BGSD.shape[1:3], v_BGSE.shape[-1]
    out_BTHE = torch.empty(B, T, H, E, dtype=q_BHTD.dtype, device=q_BHTD.device)  # as the output projection reads it
    out = out_BTHE.transpose(1, 2)
    faced = strip or Strip(q_BHTD, k_BGSD[:, :, :0], v_BGSE[:, :, :0])
    k_strip, v_strip = faced.k_BGND.contiguous(), faced.v_BGNE.contiguous()
    widths = triton.next_power_of_2(D), triton.next_power_of_2(E)
    BM, BN, warps, stages = tiles(max(widths))
    assert all(x.stride(-1) == 1 for x in (q_BHTD, k_BGSD, v_BGSE, faced.q_BHTD))
    with torch.cuda.device_of(q_BHTD):  # Triton launches on the current device
        _kernel[(triton.cdiv(T, BM), B * H)](
            q_BHTD, k_BGSD, v_BGSE, faced.q_BHTD, k_strip, v_strip, sink_logit_H,
            None if slope_H is None else slope_H.float() * LOG2E, faced.distance_N, out,
            *q_BHTD.stride()[:3], *k_BGSD.stride()[:3], *v_BGSE.stride()[:3], *faced.q_BHTD.stride()[:3],
            *out.stride()[:3], k_strip.shape[2] * D, v_strip.shape[2] * E,
            H, G, T, S, k_strip.shape[2], S if window is None else min(window, S), scale * LOG2E, softcap or 0.0,
            D=D, E=E, PD=max(16, widths[0]), PE=max(16, widths[1]),
            PN=max(16, triton.next_power_of_2(max(1, k_strip.shape[2]))), BM=BM, BN=BN,
            HAS_STRIP=strip is not None, HAS_SINK=sink_logit_H is not None, HAS_CAP=softcap is not None,
            HAS_SLOPE=slope_H is not None, num_warps=warps, num_stages=stages,
        )  # fmt: skip
    return out
