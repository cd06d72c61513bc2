"""Codes of a few bits as numbers, inside Triton kernels: two at a time, as halves of a 32-bit word.

A word holds 32/b codes. Masked out of it, two of them are small integers in the mantissas of two float16 of exponent 0:
c·2^(p−24) where they stand at bit p of their half. One product by 2^(15−p), which float16 takes exactly, makes c·2^−9
of each; so a code costs half a mask and half a product, and no conversion. Where a channel is in a word: with
F = 16/b, field i of half e of word n is channel 2F·n + F·e + i.
"""

import triton
import triton.language as tl


@triton.jit
def low(x):
    """The low half of words, as float16."""
    return (x & 0xFFFF).to(tl.uint16).to(tl.float16, bitcast=True)


@triton.jit
def high(x):
    """The high half."""
    return ((x >> 16) & 0xFFFF).to(tl.uint16).to(tl.float16, bitcast=True)


@triton.jit
def pair(x):
    """Words with x, in float16, in both halves."""
    half = x.to(tl.float16).to(tl.uint16, bitcast=True).to(tl.int32)
    return half | (half << 16)


@triton.jit
def _word(a, b):
    return a.to(tl.uint16, bitcast=True).to(tl.int32) | (b.to(tl.uint16, bitcast=True).to(tl.int32) << 16)


@triton.jit
def times(a, b, PACKED: tl.constexpr):
    """Products of halves; PACKED as one instruction."""
    if PACKED:
        return tl.inline_asm_elementwise("mul.rn.f16x2 $0, $1, $2;", "=r,r,r", [a, b], tl.int32, True, 1)
    else:
        return _word(low(a) * low(b), high(a) * high(b))


@triton.jit
def times_plus(a, b, c, PACKED: tl.constexpr):
    """a·b + c of halves."""
    if PACKED:
        return tl.inline_asm_elementwise("fma.rn.f16x2 $0, $1, $2, $3;", "=r,r,r,r", [a, b, c], tl.int32, True, 1)
    else:
        first = low(a).to(tl.float32) * low(b).to(tl.float32) + low(c).to(tl.float32)
        second = high(a).to(tl.float32) * high(b).to(tl.float32) + high(c).to(tl.float32)
        return _word(first.to(tl.float16), second.to(tl.float16))


@triton.jit
def less(a, b, PACKED: tl.constexpr):
    """a − b of halves."""
    if PACKED:
        return tl.inline_asm_elementwise("sub.rn.f16x2 $0, $1, $2;", "=r,r,r", [a, b], tl.int32, True, 1)
    else:
        return _word(low(a) - low(b), high(a) - high(b))


@triton.jit
def settled(x, PACKED: tl.constexpr):
    """The same float16 numbers, of which Triton does not ask how they were made.

    It would make them once more in every warp that needs them, or lay products out for the codes they came from. The
    move costs nothing: it is gone from the machine code.
    """
    if PACKED:
        return tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [x], tl.float16, False, 2)
    else:
        return x


@triton.jit
def _field(word, BITS: tl.constexpr, FIELD: tl.constexpr):
    """Two codes of every word, at bit (FIELD mod P)·b of its halves: P of them are within a mantissa of 10 bits."""
    PLACES: tl.constexpr = 10 // BITS
    MASK: tl.constexpr = (2**BITS - 1) * 0x10001 << FIELD % PLACES * BITS
    if FIELD // PLACES > 0:
        word = word >> FIELD // PLACES * PLACES * BITS
    return word & MASK


@triton.jit
def fields(word, BITS: tl.constexpr, FIRST: tl.constexpr = 0, STEP: tl.constexpr = 1):
    """[…] words → […, F]: the two codes of each field where `_field` leaves them."""
    if STEP * BITS == 16:
        found = _field(word, BITS, FIRST)
    else:
        found = tl.join(fields(word, BITS, FIRST, 2 * STEP), fields(word, BITS, FIRST + STEP, 2 * STEP))
    return found


@triton.jit
def lift(BITS: tl.constexpr):
    """Of each field, in both halves, what makes c·2^−9 of its codes: [F]."""
    PLACES: tl.constexpr = 10 // BITS
    return (30 - tl.arange(0, 16 // BITS) % PLACES * BITS << 10) * 0x10001


@triton.jit
def by_field(x, BITS: tl.constexpr):
    """[rows, channels] in the order in which products meet codes: by field, then word, then half."""
    FIELDS: tl.constexpr = 16 // BITS
    WORDS: tl.constexpr = x.shape[1] * BITS // 32
    return tl.reshape(tl.permute(tl.reshape(x, [x.shape[0], WORDS, 2, FIELDS]), (0, 3, 1, 2)), x.shape)
