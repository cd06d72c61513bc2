"""`row_products` of several rows in one launch: a program reads a few rows of a matrix once, for tensor cores.

They are the side of the product that has many; rows of x, filled up to eight, are the other. RMSNorm's root comes in
after the product, its gain before, where x is rounded once, as a layer of its own would. Shapes as in `reference.py`.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sinkctl.kernels import present
from sinkctl.kernels.row_products.reference import Norm

# Rows of a matrix, or of each of two that gate, and numbers of each that a program multiplies at a time.
TILE, TILE_GATED = (32, 256), (16, 256)
STAGES = 4  # pieces that are multiplied or on their way
WARPS = 4


@triton.jit
def _piece(x, gain, squares, start, live, k, K, HAS_NORM: tl.constexpr):
    """(a piece of x as it is multiplied, sums of squares by place in a piece)."""
    inside = start + k < K
    x_k = tl.load(x + start + k[None, :], live[:, None] & inside[None, :], 0.0)
    if HAS_NORM:
        precise = x_k.to(tl.float32)
        squares += precise * precise
        x_k = (precise * tl.load(gain + start + k, inside, 0.0).to(tl.float32)[None, :]).to(x_k.dtype)
    return x_k, squares


@triton.jit
def _several(
    x, gain, w0, w1, w2, add, out, n0, n1, n2, s0, s1, s2, add_stride, R, N, K, eps,
    BR: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, HAS_NORM: tl.constexpr, GATED: tl.constexpr,
    HAS_ADD: tl.constexpr, EARLY: tl.constexpr, STAGES: tl.constexpr, OVERLAPS: tl.constexpr,
):  # fmt: skip
    if OVERLAPS:
        gdc_launch_dependents()
    tile = tl.program_id(0)
    w, rows, stride, before = w0, n0, s0, 0
    if not GATED:
        tiles0, tiles1 = tl.cdiv(n0, BN), tl.cdiv(n1, BN)
        if tile >= tiles0:
            w, rows, stride, before = w1, n1, s1, n0
            tile -= tiles0
            if tile >= tiles1:
                w, rows, stride, before = w2, n2, s2, n0 + n1
                tile -= tiles1
    r, n, k = tl.arange(0, BR), tile * BN + tl.arange(0, BN), tl.arange(0, BK)
    live, here = r < R, (n < rows)[:, None]
    # As `select` asks: reads of 16 bytes.
    row = tl.multiple_of(w, 16) + tl.multiple_of(n.to(tl.int64) * stride, 8)[:, None] + k[None, :]
    other = tl.multiple_of(w1, 16) + tl.multiple_of(n.to(tl.int64) * s1, 8)[:, None] + k[None, :]
    x_rows = x + r[:, None] * K
    squares = tl.zeros([BR, BK], tl.float32)
    acc, up = tl.zeros([BN, BR], tl.float32), tl.zeros([BN, BR], tl.float32)
    if EARLY:
        piece = tl.load(row, here & (k < K)[None, :], 0.0, eviction_policy="evict_first")
        if GATED:
            second = tl.load(other, here & (k < K)[None, :], 0.0, eviction_policy="evict_first")
    if OVERLAPS:
        gdc_wait()
    if EARLY:
        x_k, squares = _piece(x_rows, gain, squares, 0, live, k, K, HAS_NORM)
        acc = tl.dot(piece, tl.trans(x_k), acc)
        if GATED:
            up = tl.dot(second, tl.trans(x_k), up)
    for start in tl.range(BK if EARLY else 0, K, BK, num_stages=STAGES):
        inside = here & (start + k < K)[None, :]
        piece = tl.load(row + start, inside, 0.0, eviction_policy="evict_first")
        x_k, squares = _piece(x_rows, gain, squares, start, live, k, K, HAS_NORM)
        acc = tl.dot(piece, tl.trans(x_k), acc)
        if GATED:
            second = tl.load(other + start, inside, 0.0, eviction_policy="evict_first")
            up = tl.dot(second, tl.trans(x_k), up)
    if HAS_NORM:
        rms = (1 / tl.sqrt(tl.sum(squares, 1) / K + eps))[None, :]
        acc *= rms
        up *= rms
    if GATED:
        acc = acc / (1 + tl.exp(-acc)) * up
    at, there = before + n[:, None], here & live[None, :]
    if HAS_ADD:
        acc += tl.load(add + r[None, :] * add_stride + at, there, 0.0).to(tl.float32)
    tl.store(out + r[None, :] * N + at, acc.to(out.dtype.element_ty), there)


def row_products(
    x_RK: Tensor,
    weights_NK: Sequence[Tensor],
    *,
    norm: Norm | None = None,
    gated: bool = False,
    add: Tensor | None = None,
) -> Tensor:
    """As `reference.row_products`, for half precision on CUDA, at most three matrices with contiguous rows."""
    assert x_RK.is_contiguous()
    assert add is None or add.stride(-1) == 1
    (R, K), sizes = x_RK.shape, [len(weight) for weight in weights_NK]
    N = sizes[0] if gated else sum(sizes)
    given = [(weight, len(weight), weight.stride(0)) for weight in weights_NK]
    matrices, rows, strides = zip(*given, *[(x_RK, 0, 0)] * (3 - len(given)), strict=True)
    BN, BK = TILE_GATED if gated else TILE
    out_RN = x_RK.new_empty(R, N)
    with torch.cuda.device_of(x_RK):  # Triton launches on the current device
        _several[(triton.cdiv(N, BN) if gated else sum(triton.cdiv(size, BN) for size in sizes),)](
            x_RK, None if norm is None else norm.gain_K, *matrices, add, out_RN, *rows, *strides,
            add.stride(0) if add is not None and add.dim() == 2 else 0, R, N, K, 0.0 if norm is None else norm.eps,
            BR=max(8, triton.next_power_of_2(R)), BN=BN, BK=min(BK, max(16, triton.next_power_of_2(K))),
            HAS_NORM=norm is not None, GATED=gated, HAS_ADD=add is not None, EARLY=True, STAGES=STAGES,
            num_warps=WARPS, **present.overlapping(x_RK),
        )  # fmt: skip
    return out_RN
