"""How a step of `rounded_decode` ends, in one launch in Triton: parts merged, and the token put in the store.

One program a query head and row merges; one a key/value head and row does what `reference._take` does, and rounds what
is recent no more. Rounding is that of `quantize.py`, to the nearest even. Shapes as there.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sinkctl.kernels.decode_attention.triton import merged
from sinkctl.kernels.rounded_decode.full import slots
from sinkctl.kernels.rounded_decode.reference import Rule, Store


@triton.jit
def _rounded(x, low, high, dtype: tl.constexpr, BITS: tl.constexpr):
    """(codes, scale, zero) of numbers by the ends of their ranges; scale and zero as they are kept."""
    down = tl.abs(high) < tl.abs(low)
    zero = tl.where(down, high, low)
    scale = tl.div_rn(tl.where(down, low - high, high - low), tl.zeros_like(high) + (2**BITS - 1)).to(dtype)
    by = scale.to(tl.float32)
    code = tl.where(by == 0, 0.0, tl.div_rn(x - zero, tl.where(by == 0, 1.0, by) + tl.zeros_like(x)))
    code = (code + 12582912.0) - 12582912.0  # 1.5·2^23: to the nearest even
    return tl.minimum(tl.maximum(code, 0.0), 2**BITS - 1).to(tl.int32), scale, zero.to(dtype)


@triton.jit
def _words(code, BITS: tl.constexpr):
    """[…, D] → […, D·b/32]."""
    FIELDS: tl.constexpr = 32 // BITS
    ROWS: tl.constexpr = code.shape[0]
    WORDS: tl.constexpr = code.shape[1] // FIELDS
    place = tl.arange(0, FIELDS) * BITS
    return tl.sum(tl.reshape(code, [ROWS, WORDS, FIELDS]) << place[None, None, :], 2)


@triton.jit
def _round_value(
    recent_v, new, words, scale_out, zero_out, head, t, j, recent, sinks, count,
    D: tl.constexpr, BITS: tl.constexpr, TOGETHER: tl.constexpr,
):  # fmt: skip
    """Value of token j, in ranges of channels."""
    RANGES: tl.constexpr = D // TOGETHER
    EACH: tl.constexpr = TOGETHER * BITS // 32
    old = tl.load(recent_v + j % (recent + 1) * D + tl.arange(0, D))
    x = tl.reshape(tl.where(j == t, new, old).to(tl.float32), [RANGES, TOGETHER])
    code, scale, zero = _rounded(x, tl.min(x, 1)[:, None], tl.max(x, 1)[:, None], new.dtype, BITS)
    range_ = tl.arange(0, RANGES)
    ranges = (head * count + slots(j, range_ * 0, sinks, count)) * RANGES + range_
    tl.store(scale_out + ranges[:, None], scale)
    tl.store(zero_out + ranges[:, None], zero)
    tl.store(words + ranges[:, None] * EACH + tl.arange(0, EACH)[None, :], _words(code, BITS))


@triton.jit
def _round_keys(
    recent_k, new, words, scale_out, zero_out, head, t, begin, recent, kept, sinks, count,
    D: tl.constexpr, BITS: tl.constexpr, TOGETHER: tl.constexpr,
):  # fmt: skip
    """Keys of the group that begins with token `begin`, each channel over its tokens but those kept."""
    WORDS: tl.constexpr = D * BITS // 32
    d, r = tl.arange(0, D)[None, :], tl.arange(0, TOGETHER)[:, None]
    old = tl.load(recent_k + (begin + r) % (recent + TOGETHER) * D + d)
    x = tl.where(begin + r == t, new[None, :], old).to(tl.float32)
    counts = begin + r >= kept
    low, high = tl.min(tl.where(counts, x, float("inf")), 0), tl.max(tl.where(counts, x, -float("inf")), 0)
    low, high = tl.where(low <= high, low, 0.0)[None, :], tl.where(low <= high, high, 0.0)[None, :]
    code, scale, zero = _rounded(x, low, high, new.dtype, BITS)
    fixed = (sinks + TOGETHER - 1) // TOGETHER
    slot = head * count + slots(begin // TOGETHER, 0, fixed, count)
    tl.store(scale_out + slot * D + d, scale)
    tl.store(zero_out + slot * D + d, zero)
    tl.store(words + (slot * TOGETHER + r) * WORDS + tl.arange(0, WORDS)[None, :], _words(code, BITS))


@triton.jit
def _take_in(
    head, k, v, recent_k, recent_v, k_words, k_scale, k_zero, v_words, v_scale, v_zero, kept_k, kept_v, t_row,
    kb, kg, vb, vg, G, recent, kept, sinks, k_count, v_count, rounds,
    D: tl.constexpr, BITS: tl.constexpr, TOGETHER: tl.constexpr,
):  # fmt: skip
    b, g = head // G, head % G
    t, d = tl.load(t_row + b), tl.arange(0, D)
    recent_k += head * (recent + TOGETHER) * D
    recent_v += head * (recent + 1) * D
    new_k, new_v = tl.load(k + b * kb + g * kg + d), tl.load(v + b * vb + g * vg + d)
    j = t - recent  # the next query sees its value rounded
    if (rounds != 0) & (j >= 0):
        _round_value(recent_v, new_v, v_words, v_scale, v_zero, head, t, j, recent, sinks, v_count, D, BITS, TOGETHER)
        if (j + 1) % TOGETHER == 0:
            _round_keys(recent_k, new_k, k_words, k_scale, k_zero, head, t, j + 1 - TOGETHER, recent, kept, sinks,
                        k_count, D, BITS, TOGETHER)  # fmt: skip
    tl.debug_barrier()  # a slot is read above that the new token takes, where `recent` is 0
    tl.store(recent_k + t % (recent + TOGETHER) * D + d, new_k)
    tl.store(recent_v + t % (recent + 1) * D + d, new_v)
    if t < kept:
        tl.store(kept_k + (head * kept + t) * D + d, new_k)
        tl.store(kept_v + (head * kept + t) * D + d, new_v)


@triton.jit(do_not_specialize=["rounds"])  # so that one kernel does both
def _finish(
    k, v, recent_k, recent_v, k_words, k_scale, k_zero, v_words, v_scale, v_zero, kept_k, kept_v, t_row,
    m, norm, acc, sink, out, kb, kg, vb, vg, G, recent, kept, sinks, k_count, v_count, rounds, heads, H, parts,
    D: tl.constexpr, BITS: tl.constexpr, TOGETHER: tl.constexpr, PP: tl.constexpr, HAS_SINK: tl.constexpr,
    OVERLAPS: tl.constexpr,
):  # fmt: skip
    if OVERLAPS:
        gdc_launch_dependents()
        gdc_wait()
    program = tl.program_id(0).to(tl.int64)
    if program < heads:
        _take_in(
            program, k, v, recent_k, recent_v, k_words, k_scale, k_zero, v_words, v_scale, v_zero, kept_k, kept_v,
            t_row, kb, kg, vb, vg, G, recent, kept, sinks, k_count, v_count, rounds, D, BITS, TOGETHER,
        )  # fmt: skip
    else:
        merged(program - heads, m, norm, acc, sink, out, H, parts, D, D, PP, HAS_SINK)


def finish(
    k_BGD: Tensor, v_BGE: Tensor, store: Store, t_B: Tensor, rule: Rule, found: tuple[Tensor, Tensor, Tensor],
    sink_logit_H: Tensor | None, out_BHD: Tensor, *, parts: int, rounds: bool, OVERLAPS: bool, **early,
) -> None:  # fmt: skip
    """Merge what parts have `found` (maxima, sums, weighted values), and put each row's token in the store.

    Where `rounds` is False nothing is rounded, so that the token may come again.
    """
    (B, G, D), H, held = k_BGD.shape, out_BHD.shape[1], list(store)
    held[2], held[5] = (x.view(torch.int32) for x in (store.k_codes, store.v_codes))
    _finish[(B * (G + H),)](
        k_BGD, v_BGE, *held, t_B, *found, sink_logit_H, out_BHD, *k_BGD.stride()[:2], *v_BGE.stride()[:2], G,
        rule.recent, rule.kept, rule.sinks, store.k_codes.shape[2], store.v_codes.shape[2], int(rounds), B * G, H,
        parts, D=D, BITS=rule.bits, TOGETHER=rule.together, PP=triton.next_power_of_2(parts),
        HAS_SINK=sink_logit_H is not None, OVERLAPS=OVERLAPS, num_warps=4, **early,
    )  # fmt: skip
