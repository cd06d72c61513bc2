"""Whole groups of `rounded_decode` in Triton, several at a time.

Scores need no dequantized key: with k = s·c + z by channel, a key r places into its group, turned by r, against the
query turned by the distance of the group, is

    Σ (s_a q_a)(c_a cos) + (s_a q_b)(c_a sin) + (s_b q_b)(c_b cos) − (s_b q_a)(c_b sin)  +  the same of z for c

over pairs (a, b) of channels. So codes meet fixed cosines and sines of r alone, scales go to the query once a group,
and what zeros add is the same for all groups but for q. Rows of the matrix product are (group, query head): a row sees
the keys of its own group. Products are in float16 and summed in float32. Where scales or zeros are so great that a
product would leave the range of float16, a power of two is taken out of queries, by group, and of values, by tile, and
put back in float32. Shapes as in `reference.py`; x is a channel of a half.
"""

import triton
import triton.language as tl

from sinkctl.kernels.decode_attention.triton import _attend, _scores
from sinkctl.kernels.rounded_decode.codes import (
    by_field,
    fields,
    high,
    less,
    lift,
    low,
    pair,
    settled,
    times,
    times_plus,
)
from sinkctl.kernels.rounded_decode.full import fresh, further, placed, turned


@triton.jit
def _against(
    some, score, q_cos, q_sin, words, middle, cos, sin, PACKED: tl.constexpr, BITS: tl.constexpr, CENTRED: tl.constexpr
):
    """Adds the products of one half of the channels: words [groups, t, W], tables [t, W, F], queries [rows, x].

    CENTRED: codes count from `middle` [groups, 1, W, F], words as well.
    """
    GROUPS: tl.constexpr = words.shape[0]
    TOGETHER: tl.constexpr = words.shape[1]
    WORDS: tl.constexpr = words.shape[2]
    FIELDS: tl.constexpr = 16 // BITS
    shape: tl.constexpr = [GROUPS, TOGETHER, WORDS, FIELDS]
    codes = tl.reshape(fields(words, BITS), shape)
    if CENTRED:
        codes = less(codes, tl.broadcast_to(middle, shape), PACKED)
    for sine in tl.static_range(2):
        table = tl.broadcast_to((sin if sine else cos)[None], shape)
        if some:
            found = times(codes, table, PACKED)
            both = tl.permute(tl.join(low(found), high(found)), (0, 1, 3, 2, 4))
            key = tl.reshape(both, [GROUPS * TOGETHER, 2 * WORDS * FIELDS])
        else:
            key = tl.zeros([GROUPS * TOGETHER, 2 * WORDS * FIELDS], tl.float16)
        score = tl.dot(settled(by_field((q_sin if sine else q_cos).to(tl.float16), BITS), PACKED), tl.trans(key), score)
    return score


@triton.jit
def _nearest(scale, zero, BITS: tl.constexpr):
    """The code of the number nearest to 0, in float32."""
    code = tl.where(scale == 0, 0.0, -zero / tl.where(scale == 0, 1.0, scale))
    return (tl.minimum(tl.maximum(code, 0.0), 2**BITS - 1) + 12582912.0) - 12582912.0  # 1.5·2^23: to the nearest even


@triton.jit
def _middle(scale, zero, ranges, there, BITS: tl.constexpr, WORDS: tl.constexpr):
    """Those codes as `fields` leaves codes, [groups, 1, W, F]; `ranges` [groups, 1, 1] counts scales."""
    FIELDS: tl.constexpr = 16 // BITS
    field = tl.arange(0, FIELDS)[None, None, None, :]
    at = ranges[:, :, :, None] + tl.arange(0, WORDS)[None, None, :, None] * (2 * FIELDS) + field
    found = tl.zeros([ranges.shape[0], 1, WORDS, FIELDS], tl.int32)
    for half in tl.static_range(2):
        s = tl.load(scale + at + half * FIELDS, there[:, :, :, None], 0.0).to(tl.float32)
        z = tl.load(zero + at + half * FIELDS, there[:, :, :, None], 0.0).to(tl.float32)
        found += _nearest(s, z, BITS).to(tl.int32) << (field % (10 // BITS) * BITS + 16 * half)
    return found


@triton.jit
def _fit(most):
    """(2^n, 2^−n), the least n ≥ 0 by which numbers of at most `most`, float32 ≥ 0, are below 2^15: within float16."""
    exponent = tl.maximum((most.to(tl.int32, bitcast=True) >> 23) - 14, 127)
    return (exponent << 23).to(tl.float32, bitcast=True), (254 - exponent << 23).to(tl.float32, bitcast=True)


@triton.jit
def _values(words, scale, zero, PACKED: tl.constexpr, BITS: tl.constexpr):
    """Values of tokens, [T, x]: words [T, W], scale (of c·2^−9) and zero [T, ranges]."""
    T: tl.constexpr = words.shape[0]
    WORDS: tl.constexpr = words.shape[1]
    RANGES: tl.constexpr = scale.shape[1]
    FIELDS: tl.constexpr = 16 // BITS
    flat: tl.constexpr = [T, RANGES, WORDS // RANGES]
    scale = tl.reshape(tl.broadcast_to(pair(scale)[:, :, None], flat), [T, WORDS])[:, :, None]
    zero = tl.reshape(tl.broadcast_to(pair(zero)[:, :, None], flat), [T, WORDS])[:, :, None]
    shape: tl.constexpr = [T, WORDS, FIELDS]
    codes = tl.reshape(fields(words, BITS), shape)
    found = times(codes, tl.broadcast_to(lift(BITS)[None, None, :], shape), PACKED)
    found = times_plus(found, tl.broadcast_to(scale, shape), tl.broadcast_to(zero, shape), PACKED)
    return tl.reshape(tl.join(low(found), high(found)), [T, 2 * WORDS * FIELDS])


@triton.jit
def in_groups(
    q_a, q_b, k_codes, k_scale, k_zero, v_codes, v_scale, v_zero, coarse, packed, plain,
    t, first, end, oldest, kept, k_fixed, k_count, v_fixed, v_count, softcap,
    D: tl.constexpr, BITS: tl.constexpr, TOGETHER: tl.constexpr, GROUPS: tl.constexpr, SHARE: tl.constexpr,
    HAS_CAP: tl.constexpr, ONCE: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """Groups first … end−1 of one row and head: (maximum, sum, weighted values) by (group of a tile, query head)."""
    HALF: tl.constexpr = D // 2
    BM: tl.constexpr = q_a.shape[0]
    T: tl.constexpr = GROUPS * TOGETHER
    WORDS: tl.constexpr = HALF * BITS // 32
    FIELDS: tl.constexpr = 16 // BITS
    CENTRED: tl.constexpr = k_scale.dtype.element_ty == tl.float16  # else products err more than float16 itself
    x = tl.arange(0, HALF)[None, :]
    group_m = tl.arange(0, BM) // SHARE
    n = tl.arange(0, T)
    group_n = n // TOGETHER
    i, r, word = tl.arange(0, GROUPS)[:, None, None], tl.arange(0, TOGETHER)[:, None], tl.arange(0, WORDS)
    range_ = tl.arange(0, D // TOGETHER)[None, :]
    of_word = packed + (r[:, :, None] * WORDS + word[None, :, None]) * FIELDS + tl.arange(0, FIELDS)[None, None, :]
    cos, sin = tl.load(of_word), tl.load(of_word + TOGETHER * WORDS * FIELDS)
    of_x = plain + tl.arange(0, TOGETHER)[None, :] * HALF + tl.arange(0, HALF)[:, None]
    plain_cos, plain_sin = tl.load(of_x), tl.load(of_x + TOGETHER * HALF)
    m = tl.zeros([BM], tl.float32) - 1e30  # finite: a tile may hold no key of a row
    norm = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, D], tl.float32)
    k_turning, v_turning = k_count - k_fixed, v_count - v_fixed
    k_place = (((first - k_fixed) % k_turning + k_turning) % k_turning).to(tl.int32)
    v_place = (((first * TOGETHER - v_fixed) % v_turning + v_turning) % v_turning).to(tl.int32)
    k_fresh, v_fresh = fresh(first, k_fixed), fresh(first * TOGETHER, v_fixed)
    hidden = tl.maximum(tl.maximum(oldest, kept) - first * TOGETHER, 0).to(tl.int32)
    turn = (t // TOGETHER - first).to(tl.int32)
    for left in tl.range((end - first).to(tl.int32), 0, -GROUPS):
        # Queries, by group.
        live = (group_m < tl.minimum(left, GROUPS))[:, None]
        a, b = turned(q_a, q_b, coarse, turn - group_m[:, None], x, live, HALF)
        ranges = placed(k_place, group_m, k_fresh, k_fixed, k_turning, ONCE)[:, None] * D + x
        s_a = tl.load(k_scale + ranges, live, 0.0).to(tl.float32) * 512
        s_b = tl.load(k_scale + HALF + ranges, live, 0.0).to(tl.float32) * 512
        z_a = tl.load(k_zero + ranges, live, 0.0).to(tl.float32)
        z_b = tl.load(k_zero + HALF + ranges, live, 0.0).to(tl.float32)
        if CENTRED:
            z_a += _nearest(s_a / 512, z_a, BITS) * (s_a / 512)
            z_b += _nearest(s_b / 512, z_b, BITS) * (s_b / 512)
        most = tl.maximum(tl.maximum(tl.abs(s_a), tl.abs(s_b)), 2 * tl.maximum(tl.abs(z_a), tl.abs(z_b)))
        grow, shrink = _fit(tl.max(tl.maximum(tl.abs(a), tl.abs(b)) * most, 1))
        a, b = a * shrink[:, None], b * shrink[:, None]
        common = tl.dot(settled((a * z_a + b * z_b).to(tl.float16), PACKED), plain_cos)
        common = tl.dot(settled((b * z_a - a * z_b).to(tl.float16), PACKED), plain_sin, common)
        score = tl.reshape(tl.broadcast_to(common[:, None, :], [BM, GROUPS, TOGETHER]), [BM, T])
        # Keys.
        group = placed(k_place, i, k_fresh, k_fixed, k_turning, ONCE)
        words = k_codes + ((group * TOGETHER + r[None]) * (2 * WORDS) + word[None, None, :])
        there = i < left
        zero_a, zero_b = 0, 0
        if CENTRED:
            zero_a = _middle(k_scale, k_zero, group * D, there, BITS, WORDS)
            zero_b = _middle(k_scale, k_zero, group * D + HALF, there, BITS, WORDS)
        some = left > 0
        score = _against(
            some, score, a * s_a, b * s_a, tl.load(words, there, 0), zero_a, cos, sin, PACKED, BITS, CENTRED
        )
        words = tl.load(words + WORDS, there, 0)
        score = _against(some, score, b * s_b, -a * s_b, words, zero_b, cos, sin, PACKED, BITS, CENTRED)
        score = _scores(score, grow[:, None], softcap, 0.0, HAS_CAP)
        seen = ((n >= hidden) & (group_n < left))[None, :] & (group_m[:, None] == group_n[None, :])
        # Values.
        token = placed(v_place, n, v_fresh, v_fixed, v_turning, ONCE)[:, None]
        here = (group_n < left)[:, None]
        v = tl.load(v_codes + token * (2 * WORDS) + tl.arange(0, 2 * WORDS)[None, :], here, 0)
        v_s = tl.load(v_scale + token * (D // TOGETHER) + range_, here, 0.0).to(tl.float32) * 512
        v_z = tl.load(v_zero + token * (D // TOGETHER) + range_, here, 0.0).to(tl.float32)
        grow, shrink = _fit(tl.max(tl.abs(v_s) + tl.abs(v_z)))
        value = settled(_values(v, v_s * shrink, v_z * shrink, PACKED, BITS), PACKED)
        m, norm, acc = _attend(m, norm, acc, tl.where(seen, score, -float("inf")), value, "tf32", grow)
        k_place, k_fresh = further(k_place, k_fresh, GROUPS, k_turning, ONCE)
        v_place, v_fresh = further(v_place, v_fresh, T, v_turning, ONCE)
        hidden, turn = hidden - T, turn - GROUPS
    return m, norm, acc
