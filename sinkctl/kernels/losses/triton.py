"""`losses` in one pass over the logits as they are, without a copy in float32. Shapes as in `reference.py`."""

import torch
import triton
import triton.language as tl
from torch import Tensor

NUMBERS, WARPS = 4096, 8  # of a row at a time


@triton.jit
def _losses(logits, target, out, stride, V, NUMBERS: tl.constexpr):
    token, i = tl.program_id(0).to(tl.int64), tl.arange(0, NUMBERS)
    row = logits + token * stride
    # Each lane keeps a running maximum and sum of its own; they meet at the end.
    most, total = tl.full([NUMBERS], -float("inf"), tl.float32), tl.zeros([NUMBERS], tl.float32)
    for start in range(0, V, NUMBERS):
        x = tl.load(row + start + i, start + i < V, -float("inf")).to(tl.float32)
        higher = tl.maximum(most, x)
        safe = tl.where(higher == -float("inf"), 0.0, higher)  # nothing but -inf so far
        total = total * tl.exp(most - safe) + tl.exp(x - safe)
        most = higher
    top = tl.max(most, 0)
    total = tl.sum(total * tl.exp(most - top), 0)
    place = tl.load(target + token)
    own = tl.load(row + place, (place >= 0) & (place < V), float("nan")).to(tl.float32)
    tl.store(out + token, tl.log(total) + (top - own))


def losses(logits_NV: Tensor, target_N: Tensor) -> Tensor:
    """As `reference.losses`, for half precision and float32 on CUDA, rows contiguous; NaN of what is no target."""
    assert logits_NV.stride(-1) == 1
    N, V = logits_NV.shape
    out_N = torch.empty(N, dtype=torch.float32, device=logits_NV.device)
    with torch.cuda.device_of(logits_NV):  # Triton launches on the current device
        _losses[(N,)](logits_NV, target_N.contiguous(), out_N, logits_NV.stride(0), V, NUMBERS=NUMBERS, num_warps=WARPS)
    return out_N
