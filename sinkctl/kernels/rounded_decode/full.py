"""What a token of `rounded_decode` sees beside whole groups of its stream, in Triton: one program a head and row.

The new token itself, whose key never passes through memory (at distance 0 no rotation matters); recent tokens, whose
values may be rounded already; those kept; and sinks that have left their true distances. But for the new token keys
and values meet in float16, which has numbers to 65,504. Shapes as in `reference.py`.
"""

import triton
import triton.language as tl

from sinkctl.kernels.decode_attention.triton import _attend, _scores


@triton.jit
def fresh(first, fixed):
    """How many groups from `first` on are in slots of their own, at most 2^30."""
    return tl.minimum(tl.maximum(fixed - first, 0), 1 << 30).to(tl.int32)


@triton.jit
def placed(place, i, own, fixed, turning, ONCE: tl.constexpr):
    """Slots of groups first + i, of which `own` are in slots of their own; `place`: (first − fixed) mod turning."""
    at = place + i
    at = tl.where(at >= turning, at - turning, at) if ONCE else at % turning
    return fixed + tl.where(i < own, i - own, at)


@triton.jit
def further(place, own, step, turning, ONCE: tl.constexpr):
    """The same two, `step` groups on; ONCE: that is at most the number of slots that are taken in turn."""
    at = place + step
    return (tl.where(at >= turning, at - turning, at) if ONCE else at % turning), tl.maximum(own - step, 0)


@triton.jit
def slots(first, i, fixed, count):
    """Where groups first + i are, of `count` slots."""
    turning = count - fixed
    place = (((first - fixed) % turning + turning) % turning).to(tl.int32)
    return placed(place, i, fresh(first, fixed), fixed, turning, False)


@triton.jit
def turned(a, b, table, place, x, live, HALF: tl.constexpr):
    """Pairs turned on by the angles in rows `place` of a table of cosines and sines ."""
    row = table + place * (2 * HALF) + x
    cos, sin = tl.load(row, live, 0.0), tl.load(row + HALF, live, 0.0)
    return a * cos - b * sin, b * cos + a * sin


@triton.jit
def _number(codes, ranges, channels, live, scale, zero, BITS: tl.constexpr):
    """Dequantized: `codes` points at a token's first byte, `ranges` counts scales."""
    byte = tl.load(codes + channels * BITS // 8, live, 0).to(tl.int32)
    code = (byte >> channels * BITS % 8) & (2**BITS - 1)
    s, z = tl.load(scale + ranges, live, 0.0).to(tl.float32), tl.load(zero + ranges, live, 0.0).to(tl.float32)
    return code.to(tl.float32) * s + z


@triton.jit
def _met(
    m, norm, acc, q_a, q_b, k_a, k_b, v, distance, seen, coarse, fine, x, softcap,
    HALF: tl.constexpr, TOGETHER: tl.constexpr, HAS_CAP: tl.constexpr,
):  # fmt: skip
    """One step over keys in full, turned back by their distances."""
    live = seen[:, None]
    k_b, k_a = turned(k_b, k_a, coarse, (distance // TOGETHER)[:, None], x, live, HALF)
    k_b, k_a = turned(k_b, k_a, fine, (distance % TOGETHER)[:, None], x, live, HALF)
    score = tl.dot(q_a.to(tl.float16), tl.trans(k_a.to(tl.float16)))
    score = tl.dot(q_b.to(tl.float16), tl.trans(k_b.to(tl.float16)), score)
    score = tl.where(seen[None, :], _scores(score, 1.0, softcap, 0.0, HAS_CAP), -float("inf"))
    return _attend(m, norm, acc, score, v, "tf32")


@triton.jit
def in_full(
    q_a, q_b, k_row, v_row, recent_k, recent_v, k_codes, k_scale, k_zero, v_codes, v_scale, v_zero, kept_k, kept_v,
    coarse, fine, t, oldest, apart, recent, kept, sinks, window, v_count, softcap,
    D: tl.constexpr, BITS: tl.constexpr, TOGETHER: tl.constexpr, BN: tl.constexpr, HAS_CAP: tl.constexpr,
):  # fmt: skip
    """(maximum, sum, weighted values) by query head; pointers are of one row and head."""
    HALF: tl.constexpr = D // 2
    RANGES: tl.constexpr = D // TOGETHER
    BM: tl.constexpr = q_a.shape[0]
    x, e = tl.arange(0, HALF)[None, :], tl.arange(0, D)[None, :]
    own_a, own_b = tl.load(k_row + x).to(tl.float32), tl.load(k_row + HALF + x).to(tl.float32)
    m = _scores(tl.sum(q_a * own_a, 1) + tl.sum(q_b * own_b, 1), 1.0, softcap, 0.0, HAS_CAP)
    norm = tl.zeros([BM], tl.float32) + 1
    acc = tl.zeros([BM, D], tl.float32) + tl.load(v_row + e).to(tl.float32)
    done_v = tl.maximum(t - recent, 0)
    done_k = done_v // TOGETHER * TOGETHER
    for start in tl.range(0, (t - done_k).to(tl.int32), BN, num_stages=1):
        i = start + tl.arange(0, BN)
        distance = (t - done_k).to(tl.int32) - i
        seen = (distance > 0) & (done_k + i >= kept)
        live = seen[:, None]
        slot = ((done_k + i) % (recent + TOGETHER)).to(tl.int32)[:, None]
        k_a = tl.load(recent_k + slot * D + x, live, 0.0).to(tl.float32)
        k_b = tl.load(recent_k + slot * D + HALF + x, live, 0.0).to(tl.float32)
        slot = ((done_k + i) % (recent + 1)).to(tl.int32)[:, None]
        early = (done_k + i < done_v)[:, None]
        v = tl.load(recent_v + slot * D + e, live & ~early, 0.0).to(tl.float32)
        token = slots(done_k, i, sinks, v_count).to(tl.int64)[:, None]
        ranges = token * RANGES + e // TOGETHER
        v += _number(v_codes + token * (D * BITS // 8), ranges, e, live & early, v_scale, v_zero, BITS)
        m, norm, acc = _met(m, norm, acc, q_a, q_b, k_a, k_b, v.to(tl.float16), distance, seen, coarse, fine, x,
                            softcap, HALF, TOGETHER, HAS_CAP)  # fmt: skip
    for start in tl.range(0, tl.maximum(kept, sinks), BN, num_stages=1):
        j = start + tl.arange(0, BN)
        sink = (j < sinks) & apart
        seen = (j < t) & (sink | ((j < kept) & (j >= oldest)))
        distance = tl.where(sink, sinks + window - j, (t - j).to(tl.int32))
        mine, held = (seen & (j < kept))[:, None], (seen & (j >= kept))[:, None]
        k_a = tl.load(kept_k + j[:, None] * D + x, mine, 0.0).to(tl.float32)
        k_b = tl.load(kept_k + j[:, None] * D + HALF + x, mine, 0.0).to(tl.float32)
        v = tl.load(kept_v + j[:, None] * D + e, mine, 0.0).to(tl.float32)
        codes, ranges = k_codes + j[:, None] * (D * BITS // 8), (j // TOGETHER)[:, None] * D + x
        k_a += _number(codes, ranges, x, held, k_scale, k_zero, BITS)
        k_b += _number(codes, ranges + HALF, x + HALF, held, k_scale, k_zero, BITS)
        ranges = j[:, None] * RANGES + e // TOGETHER
        v += _number(v_codes + j[:, None] * (D * BITS // 8), ranges, e, held, v_scale, v_zero, BITS)
        m, norm, acc = _met(m, norm, acc, q_a, q_b, k_a, k_b, v.to(tl.float16), distance, seen, coarse, fine, x,
                            softcap, HALF, TOGETHER, HAS_CAP)  # fmt: skip
    return m, norm, acc
