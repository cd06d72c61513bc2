"""`rounded_decode` in Triton: codes are read as they are held, and become numbers in registers.

One program takes a span of groups of one key/value head and row (`spans.py`). One more takes what is in full
(`full.py`): recent tokens, those kept, the new one, and sinks that have left their true distances. `rounding.py` merges
them, and takes the token in. Shapes as in `reference.py`; x is a channel of a half.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sinkctl.kernels import present
from sinkctl.kernels.decode_attention.triton import LOG2E
from sinkctl.kernels.rounded_decode.full import in_full, turned
from sinkctl.kernels.rounded_decode.reference import Angles, Rule, Store
from sinkctl.kernels.rounded_decode.rounding import finish
from sinkctl.kernels.rounded_decode.spans import in_groups
from sinkctl.kernels.rounded_decode.tables import tables_of

PROGRAMS = 1056  # several a multiprocessor, so that the last ones to end are a small part of all
TILE = 128 * 128  # numbers
STAGES = 3  # of loads ahead, where they fit on chip twice
REGISTERS = None  # at most, a thread


@triton.jit
def _part(
    q, k, v, recent_k, recent_v, k_codes, k_scale, k_zero, v_codes, v_scale, v_zero, kept_k, kept_v,
    k_words, v_words, t_row, coarse, fine, packed, plain, m_out, norm_out, acc_out, qb, qh, kb, kg, vb, vg, G, spans,
    recent, kept, sinks, window, k_count, v_count, scale, softcap,
    D: tl.constexpr, BITS: tl.constexpr, TOGETHER: tl.constexpr, GROUPS: tl.constexpr, SHARE: tl.constexpr,
    PSHARE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, HAS_WINDOW: tl.constexpr, HAS_CAP: tl.constexpr,
    ONCE: tl.constexpr, PACKED: tl.constexpr, OVERLAPS: tl.constexpr,
):  # fmt: skip
    if OVERLAPS:
        gdc_launch_dependents()
        gdc_wait()
    HALF: tl.constexpr = D // 2
    WORDS: tl.constexpr = HALF * BITS // 32
    part = tl.program_id(0)
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
            coarse, fine, t, oldest, apart, recent, kept, sinks, window, v_count, softcap,
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
        m, norm, acc = in_groups(
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
    out = (head * SHARE + heads) * (spans + 1) + part
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
) -> Tensor:
    """As `reference.rounded_decode`, for what `select` lets pass; the store is contiguous."""
    (B, H, D), G, device = q_BHD.shape, k_BGD.shape[1], q_BHD.device
    assert all(x.is_contiguous() for x in store)
    assert all(x.stride(-1) == 1 for x in (q_BHD, k_BGD, v_BGE))
    groups = max(1, min(128, TILE // D) // rule.together)
    share = triton.next_power_of_2(H // G)
    k_count, v_count = store.k_codes.shape[2], store.v_codes.shape[2]
    centred = store.k_scale.dtype == torch.float16  # more numbers a thread
    spans = max(1, min(PROGRAMS // (B * G), triton.cdiv(k_count, groups), 63))
    turning = k_count - triton.cdiv(rule.sinks, rule.together), v_count - rule.sinks
    m, norm = (torch.empty(B * H * (spans + 1), dtype=torch.float32, device=device) for _ in range(2))
    acc = torch.empty(B * H * (spans + 1), D, dtype=torch.float32, device=device)
    out = torch.empty(B, H, D, dtype=q_BHD.dtype, device=device)
    ahead = 1 if D > 128 else 2
    if present.hopper(q_BHD) and rule.bits < 8:
        ahead = STAGES
    early = present.overlapping(q_BHD)
    with torch.cuda.device_of(q_BHD):  # Triton launches on the current device
        _part[(spans + 1, B * G)](
            q_BHD, k_BGD, v_BGE, *store, store.k_codes.view(torch.int32), store.v_codes.view(torch.int32), t_B,
            *tables_of(angles, rule.bits),
            m, norm, acc, *q_BHD.stride()[:2], *k_BGD.stride()[:2], *v_BGE.stride()[:2], G, spans,
            rule.recent, rule.kept, rule.sinks, rule.window or 0, k_count, v_count, scale * LOG2E, softcap or 0.0,
            D=D, BITS=rule.bits, TOGETHER=rule.together, GROUPS=groups, SHARE=H // G, PSHARE=share,
            BM=max(16, share * groups), BN=16, HAS_WINDOW=rule.window is not None, HAS_CAP=softcap is not None,
            ONCE=turning[0] >= groups and turning[1] >= groups * rule.together, PACKED=present.packs_halves(),
            num_stages=ahead, num_warps=4 if D <= 128 and not centred else 8, maxnreg=REGISTERS, **early,
        )  # fmt: skip
        found = m, norm, acc
        finish(k_BGD, v_BGE, store, t_B, rule, found, sink_logit_H, out, parts=spans + 1, rounds=take, **early)
    return out
