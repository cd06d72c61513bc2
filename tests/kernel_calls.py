"""Every own kernel called once, as its caller launches it, on the default device: to be compiled, or to be watched.

H query heads, G key/value heads, T tokens, S keys, R ring slots, N sinks, D head width, n rotated pairs
"""

from functools import partial
from importlib import import_module

import torch

from sinkctl.kernels.column_sums import Visible
from sinkctl.kernels.decode_attention import Ring, Turn
from sinkctl.kernels.rounded_decode import Angles, Rule, Store
from sinkctl.kernels.stream_attention import Strip

H, G, T, N, BF16 = 8, 2, 512, 4, torch.bfloat16


def normal(*shape: int, dtype: torch.dtype = BF16) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype)


def streamed(width: int, **options) -> None:
    from sinkctl.kernels.stream_attention.triton import triton_attention

    strip = Strip(normal(1, H, T, width), *(normal(1, G, N, width) for _ in range(2)), torch.arange(N, 0, -1))
    x = (normal(1, H, T, width), *(normal(1, G, 2 * T, width) for _ in range(2)))
    triton_attention(*x, scale=0.1, window=T, strip=strip, sink_logit_H=normal(H), **options)


def folded(width: int) -> None:
    from sinkctl.kernels.stream_attention.fa3 import fold

    strip = Strip(normal(1, H, T, width), *(normal(1, G, N, width) for _ in range(2)))
    fold(normal(1, T, H, width), normal(1, H, T, dtype=torch.float), strip, normal(H), kv_heads=G, scale=0.1)


def decoded(width: int) -> None:
    from sinkctl.kernels.decode_attention.triton import decode_attention

    ring = Ring(*(normal(1, G, slots, width) for slots in (T, T, N, N)))
    turn = Turn(*(normal(1, width // 2, dtype=torch.float) for _ in range(4)), start=0, interleaved=False)
    x = (normal(1, heads, width) for heads in (H, G, G))
    decode_attention(*x, ring, torch.tensor([3 * T]), turn=turn, scale=0.1, sink_logit_H=normal(H))


def dequantized(width: int, bits: int = 4, together: int = 32, by: str = "triton", dtype=BF16, **options) -> None:
    from sinkctl.kernels.rounded_decode.quantize import quantize

    def coded(tokens: int, channels: int | None) -> list[torch.Tensor]:
        one = quantize(normal(tokens, width, dtype=dtype), bits, channels)
        return [x.expand(1, G, 8 * T // tokens, *x.shape).contiguous() for x in one]

    full, kept = ([normal(1, G, n, width, dtype=dtype) for n in slots] for slots in ((T + together, T + 1), (N, N)))
    store = Store(*full, *coded(together, None), *coded(1, together), *kept)
    angles = Angles(*(normal(n, width // 2, dtype=torch.float) for n in (T, T, together, together)), 0, False)
    x = (normal(1, heads, width, dtype=dtype) for heads in (H, G, G))
    rule, own = Rule(bits, together, together, T, N, N, 8 * T), dict(scale=0.1, sink_logit_H=normal(H), **options)
    rounded_decode = import_module(f"sinkctl.kernels.rounded_decode.{by}").rounded_decode
    rounded_decode(*x, store, torch.tensor([3 * T]), rule=rule, angles=angles, **own)


def summed(width: int) -> None:
    from sinkctl.kernels.column_sums.triton import triton_sums

    x = (normal(1, heads, T, width) for heads in (H, G, G))
    triton_sums(*x, scale=0.1, visible=Visible(window=T // 2), sink_logit_H=normal(H))


def queried(width: int, **options) -> None:
    from sinkctl.kernels.query_sums.triton import fused_sums, fused_written

    q, k, lse = normal(1, H, T, width), normal(1, G, T, width), normal(1, H, T, dtype=torch.float)
    fused_sums(q, k, lse, scale=0.1, visible=Visible(window=T // 2), leading=N, local=64, **options)
    fused_written(k, normal(H, width, width, dtype=torch.float))


def spread(width: int) -> None:
    from sinkctl.kernels.activations.triton import massive, outliers

    h, real = normal(1, 64, 64 * width), torch.ones(1, 64, dtype=torch.bool)  # 4,096 to 16,384 channels
    massive(h, real, 100.0, 1000.0)
    outliers(h, real, 6)


def rotated(width: int) -> None:
    from sinkctl.kernels.rotate.triton import rotate

    tables = (normal(T, width // 2, dtype=torch.float) for _ in range(2))
    rotate(normal(1, H, T, width), *tables, start=0, interleaved=False)


def multiplied(width: int, rows: int = 1) -> None:
    from sinkctl.kernels.row_products import IMPLEMENTATIONS, Norm

    row_products = IMPLEMENTATIONS["triton"]
    x, matrices = normal(rows, 16 * width), [normal(many * width, 16 * width) for many in (16, 16)]
    row_products(x, [*matrices, matrices[0]], norm=Norm(x[0], 1e-5))
    row_products(x, matrices, norm=Norm(x[0], 1e-5), gated=True)
    row_products(x, matrices[:1], add=x)


def gated(width: int) -> None:
    from sinkctl.kernels.gate.triton import gated

    gated(normal(T, width), normal(T, width))


def lost(width: int) -> None:
    from sinkctl.kernels.losses.triton import losses

    losses(normal(8, 64 * width), torch.zeros(8, dtype=torch.int64))


CASES = {
    f"{run.__name__}_{width}": partial(run, width)
    for run in (streamed, folded, decoded, dequantized, summed, queried, spread, rotated, multiplied)
    for width in (64, 128, 256)
} | {
    "gated": partial(gated, 128),
    "lost": partial(lost, 128),
    "dequantized_8_bits": partial(dequantized, 128, bits=8),
    "dequantized_2_bits": partial(dequantized, 128, bits=2),
    "dequantized_groups_of_64": partial(dequantized, 128, together=64),
    "streamed_capped": partial(streamed, 128, softcap=50.0),
    "streamed_alibi": lambda: streamed(128, slope_H=normal(H, dtype=torch.float)),
}
# What only a Hopper GPU is given.
HOPPER_ALONE = {f"multiplied_{rows}_rows": partial(multiplied, 128, rows=rows) for rows in (8, 32)}
# What is not Triton's.
IN_CUDA = {
    "dequantized_cuda": partial(dequantized, 128, by="cuda"),
    "dequantized_cuda_capped": partial(dequantized, 128, by="cuda", softcap=5.0),
    "dequantized_cuda_float16": partial(dequantized, 128, by="cuda", dtype=torch.float16),
}
