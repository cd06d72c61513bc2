"""`decode_attention` split over keys: rotation, store and attention in one Triton kernel, then one that merges.

One program takes a span of ring slots of one key/value head and row, for all of its query heads at once. One more
takes the sinks and the new token itself, whose key never passes through memory (at distance 0 no rotation matters), and
stores that key in its slot, which no program reads; no span waits for it. Shapes as in `reference.py`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sinkctl.kernels import present
from sinkctl.kernels.decode_attention.reference import Ring, Turn

LOG2E = 1.4426950408889634
# Programs that fill a GPU's multiprocessors three times over; more spans than that only add to the merge.
PROGRAMS = 396


@triton.jit
def _turned(
    rows, d, cos, sin, turn, live, D: tl.constexpr, START: tl.constexpr, PAIRS: tl.constexpr, INTERLEAVED: tl.constexpr
):
    """Rows at pointers `rows`, turned; dimensions outside the rotated ones stay."""
    x = tl.load(rows + d, live & (d < D), 0.0)
    if PAIRS > 0:
        r = d - START
        inside = (r >= 0) & (r < 2 * PAIRS)
        if INTERLEAVED:
            pair, other, sign = r // 2, r ^ 1, tl.where(r % 2 == 0, -1.0, 1.0)
        else:
            pair = tl.where(r < PAIRS, r, r - PAIRS)
            other, sign = tl.where(r < PAIRS, r + PAIRS, r - PAIRS), tl.where(r < PAIRS, -1.0, 1.0)
        y = tl.load(rows + START + other, live & inside, 0.0).to(tl.float32)
        c, s = tl.load(cos + turn + pair, inside, 1.0), tl.load(sin + turn + pair, inside, 0.0)
        x = (x.to(tl.float32) * c + sign * y * s).to(x.dtype)
    return x


@triton.jit
def _scores(product, scale, softcap, fall, HAS_CAP: tl.constexpr):
    """Scores in units of ln 2 (`scale` and `fall` hold that factor); tanh(x) = 1 − 2 / (2^(2x/ln 2) + 1)."""
    if HAS_CAP:
        return softcap * (1 - 2 / (tl.exp2(product * scale * (2 / softcap)) + 1)) * 1.4426950408889634 - fall
    return product * scale - fall


@triton.jit
def _attend(m, norm, acc, score, v, PRECISION: tl.constexpr, by=1.0):
    """One step of the running softmax over a tile of keys; v is the values divided by `by`."""
    m_new = tl.maximum(m, tl.max(score, 1))
    p = tl.exp2(score - m_new[:, None])
    shrink = tl.exp2(m - m_new)
    acc = tl.dot((p * by).to(v.dtype), v, acc * shrink[:, None], input_precision=PRECISION)
    return m_new, norm * shrink + tl.sum(p, 1), acc


@triton.jit
def _part(
    q, k, v, ring_k, ring_v, sink_k, sink_v, t_row, cos, sin, strip_cos, strip_sin, slope, m_out, norm_out, acc_out,
    qb, qh, kb, kg, vb, vg, G, R, S, span, spans, scale, softcap,
    D: tl.constexpr, E: tl.constexpr, PD: tl.constexpr, PE: tl.constexpr, PS: tl.constexpr, SHARE: tl.constexpr,
    START: tl.constexpr, PAIRS: tl.constexpr, INTERLEAVED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    HAS_CAP: tl.constexpr, HAS_SLOPE: tl.constexpr, PRECISION: tl.constexpr, OVERLAPS: tl.constexpr,
):  # fmt: skip
    if OVERLAPS:
        gdc_launch_dependents()
        gdc_wait()
    part, b, g = tl.program_id(0), (tl.program_id(1) // G).to(tl.int64), (tl.program_id(1) % G).to(tl.int64)
    t = tl.load(t_row + b)
    head = b * G + g
    d, d_down = tl.arange(0, PD)[None, :], tl.arange(0, PD)[:, None]
    e, h = tl.arange(0, PE), tl.arange(0, BM)
    live = h < SHARE
    q_rows = q + b * qb + (g * SHARE + h[:, None]) * qh
    turn = b * PAIRS
    q_tile = _turned(q_rows, d, cos, sin, turn, live[:, None], D, START, PAIRS, INTERLEAVED)
    fall = tl.load(slope + g * SHARE + h, live, 0.0) if HAS_SLOPE else tl.zeros([BM], tl.float32)
    newest = ((t - S) % R + R) % R
    if part == spans:
        q_raw = tl.load(q_rows + d, live[:, None] & (d < D), 0.0).to(tl.float32)
        k_row, v_row = k + b * kb + g * kg, v + b * vb + g * vg
        k_raw = tl.load(k_row + d, d < D, 0.0).to(tl.float32)
        v_new = tl.load(v_row + e, e < E, 0.0)
        m = _scores(tl.sum(q_raw * k_raw, 1), scale, softcap, 0.0, HAS_CAP)
        norm = tl.zeros([BM], tl.float32) + 1.0
        acc = tl.zeros([BM, PE], tl.float32) + v_new.to(tl.float32)[None, :]
        k_new = _turned(k_row, d, cos, sin, turn, d < D, D, START, PAIRS, INTERLEAVED)
        if t < S:
            tl.store(sink_k + (head * S + t) * D + d, k_new, d < D)
            tl.store(sink_v + (head * S + t) * E + e, v_new, e < E)
        else:
            tl.store(ring_k + (head * R + newest) * D + d, k_new, d < D)
            tl.store(ring_v + (head * R + newest) * E + e, v_new, e < E)
        if PS > 0:
            s = tl.arange(0, PS)
            facing = _turned(q_rows, d, strip_cos, strip_sin, turn, live[:, None], D, START, PAIRS, INTERLEAVED)
            k_tile = tl.load(sink_k + (head * S + s[None, :]) * D + d_down, (s[None, :] < S) & (d_down < D), 0.0)
            v_tile = tl.load(
                sink_v + (head * S + s[:, None]) * E + e[None, :], (s[:, None] < S) & (e[None, :] < E), 0.0
            )
            distance = (tl.minimum(t, S + R - 1) - s).to(tl.float32)
            score = _scores(tl.dot(facing, k_tile, input_precision=PRECISION), scale, softcap,
                            fall[:, None] * distance[None, :], HAS_CAP)  # fmt: skip
            seen = (s < S) & (s < t)
            m, norm, acc = _attend(m, norm, acc, tl.where(seen[None, :], score, -float("inf")), v_tile, PRECISION)
    else:
        m = tl.zeros([BM], tl.float32) - 1e30  # finite: a span may hold no key yet
        norm = tl.zeros([BM], tl.float32)
        acc = tl.zeros([BM, PE], tl.float32)
    # Until the ring has gone round once, slots past the newest hold nothing.
    filled = tl.minimum(R, tl.maximum(t - S, 0))
    for start in tl.range(part * span, tl.minimum((part + 1) * span, filled), BN):  # of the last part none
        j = start + tl.arange(0, BN)
        inside = j < R
        age = tl.where(j <= newest, newest - j, newest - j + R)
        at = head * R + j.to(tl.int64)
        k_tile = tl.load(ring_k + at[None, :] * D + d_down, inside[None, :] & (d_down < D), 0.0)
        v_tile = tl.load(ring_v + at[:, None] * E + e[None, :], inside[:, None] & (e[None, :] < E), 0.0)
        score = _scores(tl.dot(q_tile, k_tile, input_precision=PRECISION), scale, softcap,
                        fall[:, None] * age.to(tl.float32)[None, :], HAS_CAP)  # fmt: skip
        seen = inside & (age >= 1) & (age <= t - S) & (j < (part + 1) * span)
        m, norm, acc = _attend(m, norm, acc, tl.where(seen[None, :], score, -float("inf")), v_tile, PRECISION)
    row = (head * SHARE + h) * (spans + 1) + part
    tl.store(m_out + row, m, live)
    tl.store(norm_out + row, norm, live)
    tl.store(acc_out + row[:, None] * E + e[None, :], acc, live[:, None] & (e[None, :] < E))


@triton.jit
def _merge(
    m_in, norm_in, acc_in, sink, out, H, parts,
    E: tl.constexpr, PE: tl.constexpr, PP: tl.constexpr, HAS_SINK: tl.constexpr, OVERLAPS: tl.constexpr,
):  # fmt: skip
    if OVERLAPS:
        gdc_launch_dependents()
        gdc_wait()
    merged(tl.program_id(0).to(tl.int64), m_in, norm_in, acc_in, sink, out, H, parts, E, PE, PP, HAS_SINK)


@triton.jit
def merged(
    row, m_in, norm_in, acc_in, sink, out, H, parts,
    E: tl.constexpr, PE: tl.constexpr, PP: tl.constexpr, HAS_SINK: tl.constexpr,
):  # fmt: skip
    """Writes what one query head of one row attends to, of its parts."""
    p, e = tl.arange(0, PP), tl.arange(0, PE)
    here = row * parts + p
    m = tl.load(m_in + here, p < parts, -1e30)
    top = tl.max(m, 0)
    if HAS_SINK:
        logit = tl.load(sink + row % H).to(tl.float32) * 1.4426950408889634
        top = tl.maximum(top, logit)
    share = tl.exp2(m - top)
    total = tl.sum(share * tl.load(norm_in + here, p < parts, 0.0), 0)
    if HAS_SINK:
        total += tl.exp2(logit - top)
    acc = tl.load(acc_in + here[:, None] * E + e[None, :], (p[:, None] < parts) & (e[None, :] < E), 0.0)
    mixed = tl.sum(acc * share[:, None], 0) / total
    tl.store(out + row * E + e, mixed.to(out.dtype.element_ty), e < E)


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
    """As `reference.decode_attention`, for half precision and float32 on CUDA; the ring is contiguous."""
    (B, H, D), G, E = q_BHD.shape, k_BGD.shape[1], v_BGE.shape[-1]
    R, S = ring.k_BGRD.shape[2], ring.sink_k_BGSD.shape[2]
    assert all(x.is_contiguous() for x in ring)
    assert all(x.stride(-1) == 1 for x in (q_BHD, k_BGD, v_BGE))
    BN = 64 if max(D, E) <= 128 else 32
    span = BN * triton.cdiv(triton.cdiv(R, max(1, min(triton.cdiv(PROGRAMS, B * G), 64))), BN)
    spans = triton.cdiv(R, span)
    parts = spans + 1
    m, norm = (torch.empty(B * H * parts, dtype=torch.float32, device=q_BHD.device) for _ in range(2))
    acc = torch.empty(B * H * parts, E, dtype=torch.float32, device=q_BHD.device)
    out = torch.empty(B, H, E, dtype=q_BHD.dtype, device=q_BHD.device)
    tables = (None,) * 4 if turn is None else tuple(x.contiguous() for x in turn[:4])
    PE, BM = max(16, triton.next_power_of_2(E)), max(16, triton.next_power_of_2(H // G))
    early, wide = present.overlapping(q_BHD), max(D, E) > 128
    with torch.cuda.device_of(q_BHD):  # Triton launches on the current device
        _part[(parts, B * G)](
            q_BHD, k_BGD, v_BGE, *ring, t_B, *tables, None if slope_H is None else slope_H.float() * LOG2E,
            m, norm, acc, *q_BHD.stride()[:2], *k_BGD.stride()[:2], *v_BGE.stride()[:2],
            G, R, S, span, spans, scale * LOG2E, softcap or 0.0,
            D=D, E=E, PD=max(16, triton.next_power_of_2(D)), PE=PE, PS=max(16, triton.next_power_of_2(S)) if S else 0,
            SHARE=H // G, START=0 if turn is None else turn.start,
            PAIRS=0 if turn is None else turn.cos_Bn.shape[-1], INTERLEAVED=turn is not None and turn.interleaved,
            BM=BM, BN=BN, HAS_CAP=softcap is not None, HAS_SLOPE=slope_H is not None,
            PRECISION="ieee" if q_BHD.dtype == torch.float32 else "tf32",
            # A short span gains less from reading far ahead than what follows from the shared memory left to it.
            num_stages=3 if spans == 1 or wide else 2, num_warps=8 if wide else 4, **early,
        )  # fmt: skip
        _merge[(B * H,)](
            m, norm, acc, sink_logit_H, out, H, parts,
            E=E, PE=PE, PP=triton.next_power_of_2(parts), HAS_SINK=sink_logit_H is not None, num_warps=4, **early,
        )  # fmt: skip
    return out
