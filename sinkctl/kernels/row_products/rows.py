"""`row_products` of several rows: a program reads a few rows of a matrix once, for tensor cores.

They are the side of the product that has many; rows of x, filled up to eight, are the other. RMSNorm goes before, in a
launch of its own, whose results are rounded once, as a layer's own are. Shapes as in `reference.py`.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sinkctl.kernels import present
from sinkctl.kernels.row_products.reference import Norm
from sinkctl.kernels.row_products.triton import matrix_of, three

# Rows of a matrix at most, or of each of two that gate, and numbers of each that a program multiplies at a time; pieces
# of them that are multiplied or on their way; warps.
TILE, TILE_GATED = (64, 128, 8, 4), (16, 128, 4, 2)
PROGRAMS = 64  # at least, where matrices have the rows; more of them, of fewer rows, are no faster


@triton.jit
def _normed(x, gain, out, K, eps, BK: tl.constexpr, OVERLAPS: tl.constexpr):
    if OVERLAPS:
        gdc_launch_dependents()
        gdc_wait()
    row, k = tl.program_id(0).to(tl.int64) * K, tl.arange(0, BK)
    x_k = tl.load(x + row + k, k < K, 0.0).to(tl.float32)
    rms = 1 / tl.sqrt(tl.sum(x_k * x_k, 0) / K + eps)
    y = x_k * rms * tl.load(gain + k, k < K, 0.0).to(tl.float32)
    tl.store(out + row + k, y.to(out.dtype.element_ty), k < K)


@triton.jit
def _several(
    x, w0, w1, w2, add, out, n0, n1, n2, s0, s1, s2, add_stride, R, N, K,
    BR: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GATED: tl.constexpr, HAS_ADD: tl.constexpr,
    STAGES: tl.constexpr, OVERLAPS: tl.constexpr,
):  # fmt: skip
    if OVERLAPS:
        gdc_launch_dependents()
        gdc_wait()
    w, rows, stride, before, tile = matrix_of(tl.program_id(0), w0, w1, w2, n0, n1, n2, s0, s1, s2, BN, GATED)
    r, n, k = tl.arange(0, BR), tile * BN + tl.arange(0, BN), tl.arange(0, BK)
    live, here = r < R, (n < rows)[:, None]
    # As `select` asks: reads of 16 bytes.
    row = tl.multiple_of(w, 16) + tl.multiple_of(n.to(tl.int64) * stride, 8)[:, None] + k[None, :]
    other = tl.multiple_of(w1, 16) + tl.multiple_of(n.to(tl.int64) * s1, 8)[:, None] + k[None, :]
    x_rows = x + r[:, None] * K + k[None, :]
    acc, up = tl.zeros([BN, BR], tl.float32), tl.zeros([BN, BR], tl.float32)
    for start in tl.range(0, K, BK, num_stages=STAGES):
        inside = (start + k < K)[None, :]
        piece = tl.load(row + start, here & inside, 0.0, eviction_policy="evict_first")
        x_k = tl.trans(tl.load(x_rows + start, live[:, None] & inside, 0.0))
        acc = tl.dot(piece, x_k, acc)
        if GATED:
            second = tl.load(other + start, here & inside, 0.0, eviction_policy="evict_first")
            up = tl.dot(second, x_k, up)
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
    """As `reference.row_products`, for half precision on CUDA; at most three matrices of contiguous rows."""
    assert x_RK.is_contiguous()
    assert add is None or add.stride(-1) == 1
    (R, K), sizes = x_RK.shape, [len(weight) for weight in weights_NK]
    N = sizes[0] if gated else sum(sizes)
    BN, BK, stages, warps = TILE_GATED if gated else TILE
    BN = min(BN, max(16, triton.next_power_of_2(triton.cdiv(N, PROGRAMS))))
    early, full = present.overlapping(x_RK), triton.next_power_of_2(K)
    with torch.cuda.device_of(x_RK):  # Triton launches on the current device
        if norm is not None:
            normed_RK = torch.empty_like(x_RK)
            _normed[(R,)](x_RK, norm.gain_K, normed_RK, K, norm.eps, BK=full, num_warps=8, **early)
            x_RK = normed_RK
        matrices, rows, strides = three(weights_NK, x_RK)
        out_RN = x_RK.new_empty(R, N)
        _several[(triton.cdiv(N, BN) if gated else sum(triton.cdiv(size, BN) for size in sizes),)](
            x_RK, *matrices, add, out_RN, *rows, *strides,
            add.stride(0) if add is not None and add.dim() == 2 else 0, R, N, K,
            BR=max(8, triton.next_power_of_2(R)), BN=BN, BK=min(BK, max(16, full)), GATED=gated,
            HAS_ADD=add is not None, STAGES=stages, num_warps=warps, **early,
        )  # fmt: skip
    return out_RN
