"""`row_products` in one launch: a program reads a few rows of one matrix, of all their width, once.

How many rows, and how wide a piece of them at a time, is tuned on the GPU at hand, the first time that such matrices
are met, with cold caches. Shapes as in `reference.py`.
"""

from collections.abc import Sequence
from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.testing import do_bench

# (rows, width of a piece, warps); the first is taken where nothing can be timed.
TILES = ((4, 1024, 4), (2, 2048, 4), (4, 2048, 8), (8, 1024, 8), (8, 512, 4), (16, 512, 8), (1, 4096, 4), (2, 4096, 8))
_tuned: dict[tuple, tuple[int, int, int]] = {}


@triton.jit
def _products(
    x, w0, w1, w2, out, n0, n1, n2, s0, s1, s2, K,
    BN: tl.constexpr, BK: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    tiles0, tiles1 = tl.cdiv(n0, BN), tl.cdiv(n1, BN)
    w, rows, stride, before = w0, n0, s0, 0
    if tile >= tiles0:
        w, rows, stride, before = w1, n1, s1, n0
        tile -= tiles0
        if tile >= tiles1:
            w, rows, stride, before = w2, n2, s2, n0 + n1
            tile -= tiles1
    n = tile * BN + tl.arange(0, BN)
    live = n < rows
    offset = tl.multiple_of(n.to(tl.int64) * stride, 8)  # as `select` asks: reads of 16 bytes
    row = tl.multiple_of(w, 16) + offset[:, None]
    acc = tl.zeros([BN, BK], tl.float32)
    for start in tl.range(0, K, BK):
        k = start + tl.arange(0, BK)
        if EVEN:
            x_piece = tl.load(x + k)
            w_piece = tl.load(row + k[None, :], live[:, None], 0.0, eviction_policy="evict_first")
        else:
            x_piece = tl.load(x + k, k < K, 0.0)
            w_piece = tl.load(row + k[None, :], live[:, None] & (k < K)[None, :], 0.0, eviction_policy="evict_first")
        acc += w_piece.to(tl.float32) * x_piece.to(tl.float32)[None, :]
    tl.store(out + before + n, tl.sum(acc, 1).to(out.dtype.element_ty), live)


def _launch(x_K: Tensor, weights_NK: Sequence[Tensor], out_N: Tensor, tile: tuple[int, int, int]) -> None:
    BN, BK, warps = tile
    K, none = len(x_K), (x_K, 0, 0)
    given = [(weight, len(weight), weight.stride(0)) for weight in weights_NK]
    matrices, rows, strides = zip(*given, *[none] * (3 - len(given)), strict=True)
    grid = (sum(triton.cdiv(n, BN) for n in rows),)
    with torch.cuda.device_of(x_K):  # Triton launches on the current device
        _products[grid](x_K, *matrices, out_N, *rows, *strides, K, BN=BN, BK=BK, EVEN=K % BK == 0, num_warps=warps)


def _tile(x_K: Tensor, weights_NK: Sequence[Tensor], out_N: Tensor) -> tuple[int, int, int]:
    """The fastest for matrices of these sizes on this GPU."""
    key = (x_K.device, x_K.dtype, len(x_K), *map(len, weights_NK))
    if key not in _tuned:
        if not x_K.is_cuda or torch.cuda.is_current_stream_capturing():
            return TILES[0]
        times = {
            tile: do_bench(partial(_launch, x_K, weights_NK, out_N, tile), warmup=2, rep=10, return_mode="median")
            for tile in TILES
        }
        _tuned[key] = min(times, key=times.get)
    return _tuned[key]


@torch.library.custom_op("sinkctl::row_products", mutates_args=())
def _op(x_K: Tensor, weights_NK: list[Tensor]) -> Tensor:
    out_N = x_K.new_empty(sum(map(len, weights_NK)))
    _launch(x_K, weights_NK, out_N, _tile(x_K, weights_NK, out_N))
    return out_N


@_op.register_fake
def _(x_K: Tensor, weights_NK: list[Tensor]) -> Tensor:
    return x_K.new_empty(sum(map(len, weights_NK)))


def row_products(x_K: Tensor, weights_NK: Sequence[Tensor]) -> Tensor:
    """As `reference.row_products`, for half precision on CUDA, at most three matrices with contiguous rows."""
    return _op(x_K, list(weights_NK))
