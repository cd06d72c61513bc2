"""`row_products` of one row in one launch: a program reads a few rows of a matrix, of all their width, once.

While a program multiplies a piece of its rows, the next ones are on their way to shared memory, which keeps registers
for more programs. On Hopper they begin while the kernel before them ends (programmatic dependent launch): the first
piece of a matrix depends on nothing, so that its reading fills what would be a gap between two launches. Shapes as in
`reference.py`.
"""

from collections.abc import Sequence
from functools import cache
from math import log2

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sinkctl.kernels import present
from sinkctl.kernels.row_products.reference import Norm

PROGRAMS = 4  # a multiprocessor holds of the largest tile
TILE = 8192  # numbers a program multiplies at a time
WIDTH = 1024  # of a row, at least, where the row has them: reads of 2 KiB in a row come close to the memory's speed
STAGES = 3  # pieces of a row that are read or on their way
WARPS = 4


@triton.jit
def matrix_of(tile, w0, w1, w2, n0, n1, n2, s0, s1, s2, BN: tl.constexpr, GATED: tl.constexpr):
    """Whose rows a tile has: (a matrix, its rows, its stride, rows of those before it, which of its tiles)."""
    w, rows, stride, before = w0, n0, s0, 0
    if not GATED:
        tiles0, tiles1 = tl.cdiv(n0, BN), tl.cdiv(n1, BN)
        if tile >= tiles0:
            w, rows, stride, before = w1, n1, s1, n0
            tile -= tiles0
            if tile >= tiles1:
                w, rows, stride, before = w2, n2, s2, n0 + n1
                tile -= tiles1
    return w, rows, stride, before, tile


@triton.jit
def _products(
    x, gain, w0, w1, w2, add, out, n0, n1, n2, s0, s1, s2, K, eps,
    BN: tl.constexpr, BK: tl.constexpr, HAS_NORM: tl.constexpr, GATED: tl.constexpr, HAS_ADD: tl.constexpr,
    STAGES: tl.constexpr, OVERLAPS: tl.constexpr,
):  # fmt: skip
    if OVERLAPS:
        gdc_launch_dependents()
    w, rows, stride, before, tile = matrix_of(tl.program_id(0), w0, w1, w2, n0, n1, n2, s0, s1, s2, BN, GATED)
    n, k = tile * BN + tl.arange(0, BN), tl.arange(0, BK)
    live, inside = (n < rows)[:, None], k < K
    # As `select` asks: reads of 16 bytes.
    row = tl.multiple_of(w, 16) + tl.multiple_of(n.to(tl.int64) * stride, 8)[:, None] + k[None, :]
    piece = tl.load(row, live & inside[None, :], 0.0, eviction_policy="evict_first")
    if GATED:
        other = tl.multiple_of(w1, 16) + tl.multiple_of(n.to(tl.int64) * s1, 8)[:, None] + k[None, :]
        second = tl.load(other, live & inside[None, :], 0.0, eviction_policy="evict_first")
    if OVERLAPS:
        gdc_wait()
    x_k = tl.load(x + k, inside, 0.0).to(tl.float32)
    squares = x_k * x_k
    if HAS_NORM:
        x_k *= tl.load(gain + k, inside, 0.0).to(tl.float32)
    acc = piece.to(tl.float32) * x_k[None, :]
    if GATED:
        acc_up = second.to(tl.float32) * x_k[None, :]
    for start in tl.range(BK, K, BK, num_stages=STAGES):
        inside = start + k < K
        piece = tl.load(row + start, live & inside[None, :], 0.0, eviction_policy="evict_first")
        x_k = tl.load(x + start + k, inside, 0.0).to(tl.float32)
        if HAS_NORM:
            squares += x_k * x_k
            x_k *= tl.load(gain + start + k, inside, 0.0).to(tl.float32)
        acc += piece.to(tl.float32) * x_k[None, :]
        if GATED:
            second = tl.load(other + start, live & inside[None, :], 0.0, eviction_policy="evict_first")
            acc_up += second.to(tl.float32) * x_k[None, :]
    y = tl.sum(acc, 1)
    if HAS_NORM:
        rms = 1 / tl.sqrt(tl.sum(squares, 0) / K + eps)
        y *= rms
    if GATED:
        up = tl.sum(acc_up, 1)
        if HAS_NORM:
            up *= rms
        y = y / (1 + tl.exp(-y)) * up
    if HAS_ADD:
        y += tl.load(add + before + n, n < rows, 0.0).to(tl.float32)
    tl.store(out + before + n, y.to(out.dtype.element_ty), n < rows)


def row_products(
    x_RK: Tensor,
    weights_NK: Sequence[Tensor],
    *,
    norm: Norm | None = None,
    gated: bool = False,
    add: Tensor | None = None,
) -> Tensor:
    """As `reference.row_products`, for one row in half precision on CUDA; at most three matrices of contiguous rows."""
    assert x_RK.is_contiguous()
    assert len(x_RK) == 1
    K, sizes = x_RK.shape[1], [len(weight) for weight in weights_NK]
    N = sizes[0] if gated else sum(sizes)
    matrices, rows, strides = three(weights_NK, x_RK)
    BN, BK = tile(N, K, 2 if gated else 1, x_RK.device)
    out_RN = x_RK.new_empty(1, N)
    with torch.cuda.device_of(x_RK):  # Triton launches on the current device
        _products[(triton.cdiv(N, BN) if gated else sum(triton.cdiv(size, BN) for size in sizes),)](
            x_RK, None if norm is None else norm.gain_K, *matrices, add, out_RN, *rows, *strides, K,
            0.0 if norm is None else norm.eps, BN=BN, BK=BK, HAS_NORM=norm is not None, GATED=gated,
            HAS_ADD=add is not None, STAGES=STAGES, num_warps=WARPS, **present.overlapping(x_RK),
        )  # fmt: skip
    return out_RN


def three(weights_NK: Sequence[Tensor], spare: Tensor) -> tuple[tuple, tuple, tuple]:
    """Three matrices, their rows and strides; `spare`, without rows, for those that are not given."""
    given = [(weight, len(weight), weight.stride(0)) for weight in weights_NK]
    return tuple(zip(*given, *[(spare, 0, 0)] * (3 - len(given)), strict=True))


@cache
def tile(N: int, K: int, matrices: int, device: torch.device) -> tuple[int, int]:
    """Rows and width of a program's tile, of which it holds `matrices`."""
    processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
    most = TILE // WIDTH // matrices
    rows = min(most, 2 ** max(0, round(log2(N / (PROGRAMS * processors)))))
    return rows, max(16, min(TILE // matrices // rows, triton.next_power_of_2(K)))
