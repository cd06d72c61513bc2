"""`rotate` as one pass over memory: each row is read once and written once."""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit(do_not_specialize=["H", "T"])  # one compilation for every length, and for queries and keys
def _rotate(
    x, out, cos, sin, H, T,
    xb, xh, xt, ob, oh, ot,
    START: tl.constexpr, PAIRS: tl.constexpr, D: tl.constexpr, INTERLEAVED: tl.constexpr,
    ROWS: tl.constexpr, PADDED_PAIRS: tl.constexpr, PADDED_D: tl.constexpr,
):  # fmt: skip
    t = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    b, h = tl.program_id(1) // H, tl.program_id(1) % H
    row_in = x + b.to(tl.int64) * xb + h.to(tl.int64) * xh + t.to(tl.int64)[:, None] * xt
    row_out = out + b.to(tl.int64) * ob + h.to(tl.int64) * oh + t.to(tl.int64)[:, None] * ot
    n = tl.arange(0, PADDED_PAIRS)
    live = (t[:, None] < T) & (n[None, :] < PAIRS)
    c = tl.load(cos + t[:, None] * PAIRS + n[None, :], live, 0.0)
    s = tl.load(sin + t[:, None] * PAIRS + n[None, :], live, 0.0)
    first = START + (2 * n if INTERLEAVED else n)
    second = first + (1 if INTERLEAVED else PAIRS)
    a = tl.load(row_in + first[None, :], live, 0.0).to(tl.float32)
    b_ = tl.load(row_in + second[None, :], live, 0.0).to(tl.float32)
    tl.store(row_out + first[None, :], (a * c - b_ * s).to(out.dtype.element_ty), live)
    tl.store(row_out + second[None, :], (b_ * c + a * s).to(out.dtype.element_ty), live)
    if 2 * PAIRS < D:
        d = tl.arange(0, PADDED_D)
        kept = (t[:, None] < T) & (d[None, :] < D) & ((d[None, :] < START) | (d[None, :] >= START + 2 * PAIRS))
        tl.store(row_out + d[None, :], tl.load(row_in + d[None, :], kept, 0.0), kept)


def rotate(
    x_BHTD: Tensor, cos_Tn: Tensor, sin_Tn: Tensor, *, start: int, interleaved: bool, out: Tensor | None = None
) -> Tensor:
    """As `reference.rotate`, for half-precision and float32 inputs on CUDA whose last dimension is contiguous."""
    B, H, T, D = x_BHTD.shape
    pairs, rows = cos_Tn.shape[-1], 16
    out = torch.empty_like(x_BHTD) if out is None else out
    assert x_BHTD.stride(-1) == out.stride(-1) == 1
    with torch.cuda.device_of(x_BHTD):  # Triton launches on the current device
        _rotate[(triton.cdiv(T, rows), B * H)](
            x_BHTD, out, cos_Tn.contiguous(), sin_Tn.contiguous(), H, T, *x_BHTD.stride()[:3], *out.stride()[:3],
            START=start, PAIRS=pairs, D=D, INTERLEAVED=interleaved, ROWS=rows,
            PADDED_PAIRS=triton.next_power_of_2(pairs), PADDED_D=triton.next_power_of_2(D),
        )  # fmt: skip
    return out
