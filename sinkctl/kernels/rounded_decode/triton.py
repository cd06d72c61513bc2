"""`rounded_decode` in Triton: codes are read as they are held, and become numbers in registers.

One program takes a span of groups of one key/value head and row, several groups at a time. Scores need no dequantized
key: with k = s·c + z by channel, a key r places into its group, turned by r, against the query turned by the distance
of the group, is

    Σ (s_a q_a)(c_a cos) + (s_a q_b)(c_a sin) + (s_b q_b)(c_b cos) − (s_b q_a)(c_b sin)  +  the same of z for c

over pairs (a, b) of channels. So codes meet fixed cosines and sines of r alone, scales go to the query once a group,
and what zeros add is the same for all groups but for q. Rows of the matrix product are (group, query head): a row sees
the keys of its own group. One more program takes what is in full: recent tokens, those kept, the new one, and sinks
that have left their true distances. `merge` is that of `decode_attention`; `rounding.py` takes the token in.
Products are in float16 and summed in float32. Where scales or zeros are so great that a product would leave the range
of float16, a power of two is taken out of queries, by group, and of values, by tile, and put back in float32.
Shapes as in `reference.py`; x is a channel of a half.
"""

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sinkctl.kernels import present
from sinkctl.kernels.decode_attention.triton import LOG2E, _attend, _scores
from sinkctl.kernels.rounded_decode.codes import (
    by_field,
    fields,
    high,
    less,
    lift,
    low,
    middle,
    pair,
    settled,
    times,
    times_plus,
)
from sinkctl.kernels.rounded_decode.full import fresh, further, in_full, placed, turned
from sinkctl.kernels.rounded_decode.reference import Angles, Rule, Store
from sinkctl.kernels.rounded_decode.rounding import finish
from sinkctl.kernels.rounded_decode.tables import tables_of

PROGRAMS = 1056  # several a multiprocessor, so that the last ones to end are a small part of all
TILE = 128 * 128  # numbers
STAGES = 3  # of loads ahead, where they fit on chip twice
REGISTERS = None  # at most, a thread
PIECES = 5  # of what is in full, beside a kernel of its own for whole groups, which its programs leave room for
FEW_REGISTERS = 128


@triton.jit
def _against(
    some, score, q_cos, q_sin, words, cos, sin, PACKED: tl.constexpr, BITS: tl.constexpr, CENTRED: tl.constexpr
):
    """Adds the products of one half of the channels: words [groups, t, W], tables [t, W, F], queries [rows, x]."""
    GROUPS: tl.constexpr = words.shape[0]
    TOGETHER: tl.constexpr = words.shape[1]
    WORDS: tl.constexpr = words.shape[2]
    FIELDS: tl.constexpr = 16 // BITS
    shape: tl.constexpr = [GROUPS, TOGETHER, WORDS, FIELDS]
    codes = tl.reshape(fields(words, BITS), shape)
    if CENTRED:
        codes = less(codes, tl.broadcast_to(middle(BITS)[None, None, None, :], shape), PACKED)
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
def _span(
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
            z_a, z_b = z_a + s_a * (2 ** (BITS - 1) / 512), z_b + s_b * (2 ** (BITS - 1) / 512)
        most = tl.maximum(tl.maximum(s_a, s_b), 2 * tl.maximum(tl.abs(z_a), tl.abs(z_b)))
        grow, shrink = _fit(tl.max(tl.maximum(tl.abs(a), tl.abs(b)) * most, 1))
        a, b = a * shrink[:, None], b * shrink[:, None]
        common = tl.dot(settled((a * z_a + b * z_b).to(tl.float16), PACKED), plain_cos)
        common = tl.dot(settled((b * z_a - a * z_b).to(tl.float16), PACKED), plain_sin, common)
        score = tl.reshape(tl.broadcast_to(common[:, None, :], [BM, GROUPS, TOGETHER]), [BM, T])
        # Keys.
        group = placed(k_place, i, k_fresh, k_fixed, k_turning, ONCE)
        words = k_codes + ((group * TOGETHER + r[None]) * (2 * WORDS) + word[None, None, :])
        there = i < left
        some = left > 0
        score = _against(some, score, a * s_a, b * s_a, tl.load(words, there, 0), cos, sin, PACKED, BITS, CENTRED)
        words = tl.load(words + WORDS, there, 0)
        score = _against(some, score, b * s_b, -a * s_b, words, cos, sin, PACKED, BITS, CENTRED)
        score = _scores(score, grow[:, None], softcap, 0.0, HAS_CAP)
        seen = ((n >= hidden) & (group_n < left))[None, :] & (group_m[:, None] == group_n[None, :])
        # Values.
        token = placed(v_place, n, v_fresh, v_fixed, v_turning, ONCE)[:, None]
        here = (group_n < left)[:, None]
        v = tl.load(v_codes + token * (2 * WORDS) + tl.arange(0, 2 * WORDS)[None, :], here, 0)
        v_s = tl.load(v_scale + token * (D // TOGETHER) + range_, here, 0.0).to(tl.float32) * 512
        v_z = tl.load(v_zero + token * (D // TOGETHER) + range_, here, 0.0).to(tl.float32)
        grow, shrink = _fit(tl.max(v_s + tl.abs(v_z)))
        value = settled(_values(v, v_s * shrink, v_z * shrink, PACKED, BITS), PACKED)
        m, norm, acc = _attend(m, norm, acc, tl.where(seen, score, -float("inf")), value, "tf32", grow)
        k_place, k_fresh = further(k_place, k_fresh, GROUPS, k_turning, ONCE)
        v_place, v_fresh = further(v_place, v_fresh, T, v_turning, ONCE)
        hidden, turn = hidden - T, turn - GROUPS
    return m, norm, acc


@triton.jit
def _part(
    q, k, v, recent_k, recent_v, k_codes, k_scale, k_zero, v_codes, v_scale, v_zero, kept_k, kept_v,
    k_words, v_words, t_row, coarse, fine, packed, plain, m_out, norm_out, acc_out, qb, qh, kb, kg, vb, vg, G, spans, pieces,
    recent, kept, sinks, window, k_count, v_count, scale, softcap,
    D: tl.constexpr, BITS: tl.constexpr, TOGETHER: tl.constexpr, GROUPS: tl.constexpr, SHARE: tl.constexpr,
    PSHARE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, HAS_WINDOW: tl.constexpr, HAS_CAP: tl.constexpr,
    ONCE: tl.constexpr, PACKED: tl.constexpr, ALONE: tl.constexpr, OVERLAPS: tl.constexpr,
):  # fmt: skip
    # ALONE: another kernel takes the spans. It begins once this one's inputs are there, and does not wait for its end.
    if OVERLAPS:
        if not ALONE:
            gdc_launch_dependents()
        gdc_wait()
        if ALONE:
            gdc_launch_dependents()
    HALF: tl.constexpr = D // 2
    WORDS: tl.constexpr = HALF * BITS // 32
    piece = tl.program_id(0)
    part = 0 if ALONE else piece
    b, g = (tl.program_id(1) // G).to(tl.int64), (tl.program_id(1) % G).to(tl.int64)
    head, t = b * G + g, tl.load(t_row + b)
    apart = HAS_WINDOW & (sinks > 0) & (t > sinks + window)
    first = tl.maximum(t - window, 0) if HAS_WINDOW else t * 0
    oldest = tl.where(apart, tl.maximum(first, sinks), tl.where(sinks > 0, 0, first))
    row = tl.arange(0, BM)
    h = row % PSHARE
    live = ((h < SHARE) & (row < PSHARE * GROUPS))[:, None]
    x = tl.arange(0, HALF)[None, :]
    q_rows = q + b * qb + (g * SHARE + h[:, None]) * qh
    q_a = tl.load(q_rows + x, live, 0.0).to(tl.float32) * scale
    q_b = tl.load(q_rows + HALF + x, live, 0.0).to(tl.float32) * scale
    k_scale += head * k_count * D
    k_zero += head * k_count * D
    v_scale += head * v_count * (D // TOGETHER)
    v_zero += head * v_count * (D // TOGETHER)
    if part == 0:
        bytes_: tl.constexpr = D * BITS // 8
        m, norm, acc = in_full(
            q_a, q_b, k + b * kb + g * kg, v + b * vb + g * vg,
            recent_k + head * (recent + TOGETHER) * D, recent_v + head * (recent + 1) * D,
            k_codes + head * k_count * TOGETHER * bytes_, k_scale, k_zero,
            v_codes + head * v_count * bytes_, v_scale, v_zero, kept_k + head * kept * D, kept_v + head * kept * D,
            coarse, fine, t, oldest, apart, recent, kept, sinks, window, v_count, softcap, piece, pieces,
            D, BITS, TOGETHER, BN, HAS_CAP,
        )  # fmt: skip
        own = row < PSHARE  # rows of other groups are copies of these
        m, norm = tl.where(own, m, -1e30), tl.where(own, norm, 0.0)
    else:
        q_a, q_b = turned(q_a, q_b, fine, t % TOGETHER, x, live, HALF)
        whole = tl.maximum(t - recent, 0) // TOGETHER
        begin = oldest // TOGETHER
        span = ((whole - begin + GROUPS - 1) // GROUPS + spans - 1) // spans * GROUPS
        begin += (part - 1) * span
        m, norm, acc = _span(
            q_a, q_b, k_words + head * k_count * TOGETHER * (2 * WORDS), k_scale, k_zero,
            v_words + head * v_count * (2 * WORDS), v_scale, v_zero, coarse, packed, plain,
            t, begin, tl.minimum(begin + span, whole), oldest, kept, (sinks + TOGETHER - 1) // TOGETHER, k_count,
            sinks, v_count, softcap, D, BITS, TOGETHER, GROUPS, PSHARE, HAS_CAP, ONCE, PACKED,
        )  # fmt: skip
    m = tl.reshape(m, [BM // PSHARE, PSHARE])
    top = tl.max(m, 0)
    share = tl.exp2(m - top[None, :])
    norm = tl.sum(tl.reshape(norm, [BM // PSHARE, PSHARE]) * share, 0)
    acc = tl.sum(tl.reshape(acc, [BM // PSHARE, PSHARE, D]) * share[:, :, None], 0)
    heads = tl.arange(0, PSHARE)
    out = (head * SHARE + heads) * (spans + pieces) + piece
    tl.store(m_out + out, top, heads < SHARE)
    tl.store(norm_out + out, norm, heads < SHARE)
    # In `in_full` values are in the order of channels, in `_span` in that of codes.
    place = tl.arange(0, D)
    FIELDS: tl.constexpr = 16 // BITS
    coded = place // (2 * FIELDS) * 2 * FIELDS + place % 2 * FIELDS + place // 2 % FIELDS
    e = tl.where(part == 0, place, coded)
    tl.store(acc_out + out[:, None] * D + e[None, :], acc, (heads < SHARE)[:, None])


def rounded_decode(
    q_BHD: Tensor,
    k_BGD: Tensor,
    v_BGE: Tensor,
    store: Store,
    t_B: Tensor,
    *,
    rule: Rule,
    angles: Angles,
    scale: float,
    sink_logit_H: Tensor | None = None,
    softcap: float | None = None,
    take: bool = True,
    spanning: Callable[..., None] | None = None,
) -> Tensor:
    """As `reference.rounded_decode`, for what `select` lets pass; the store is contiguous.

    `spanning` launches what takes whole groups, spans of it, in place of the kernel here.
    """
    (B, H, D), G, device = q_BHD.shape, k_BGD.shape[1], q_BHD.device
    assert all(x.is_contiguous() for x in store)
    assert all(x.stride(-1) == 1 for x in (q_BHD, k_BGD, v_BGE))
    groups = max(1, min(128, TILE // D) // rule.together)
    share = triton.next_power_of_2(H // G)
    k_count, v_count = store.k_codes.shape[2], store.v_codes.shape[2]
    pieces, registers = (1, REGISTERS) if spanning is None else (PIECES, FEW_REGISTERS)
    spans = max(1, min(triton.cdiv(PROGRAMS, B * G), triton.cdiv(k_count, groups), 64 - pieces))
    turning = k_count - triton.cdiv(rule.sinks, rule.together), v_count - rule.sinks
    m, norm = (torch.empty(B * H * (spans + pieces), dtype=torch.float32, device=device) for _ in range(2))
    acc = torch.empty(B * H * (spans + pieces), D, dtype=torch.float32, device=device)
    out = torch.empty(B, H, D, dtype=q_BHD.dtype, device=device)
    ahead = 1 if D > 128 else 2
    if present.hopper(q_BHD) and rule.bits < 8:
        ahead = STAGES
    early = present.overlapping(q_BHD)
    tables = tables_of(angles, rule.bits)
    with torch.cuda.device_of(q_BHD):  # Triton launches on the current device
        _part[(spans + pieces if spanning is None else pieces, B * G)](
            q_BHD, k_BGD, v_BGE, *store, store.k_codes.view(torch.int32), store.v_codes.view(torch.int32), t_B,
            *tables,
            m, norm, acc, *q_BHD.stride()[:2], *k_BGD.stride()[:2], *v_BGE.stride()[:2], G, spans, pieces,
            rule.recent, rule.kept, rule.sinks, rule.window or 0, k_count, v_count, scale * LOG2E, softcap or 0.0,
            D=D, BITS=rule.bits, TOGETHER=rule.together, GROUPS=groups, SHARE=H // G, PSHARE=share,
            BM=max(16, share * groups), BN=16, HAS_WINDOW=rule.window is not None, HAS_CAP=softcap is not None,
            ONCE=turning[0] >= groups and turning[1] >= groups * rule.together, PACKED=present.packs_halves(),
            ALONE=spanning is not None, num_warps=4 if D <= 128 else 8, num_stages=ahead, maxnreg=registers, **early,
        )  # fmt: skip
        if spanning is not None:
            spanning(q_BHD, store, t_B, tables, (m, norm, acc), spans, pieces, rule, scale * LOG2E, softcap)
        finish(
            k_BGD,
            v_BGE,
            store,
            t_B,
            rule,
            (m, norm, acc),
            sink_logit_H,
            out,
            parts=spans + pieces,
            rounds=take,
            **early,
        )
    return out
