"""Which implementation of `row_products` runs, and why."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sinkctl.kernels.present import triton_runs

MOST = 3  # matrices a call


def select(weights_NK: Sequence[Tensor]) -> tuple[Callable[[Tensor, Sequence[Tensor]], Tensor] | None, str]:
    """(implementation, reason); None where nothing is faster than torch's own product of each matrix."""
    first = weights_NK[0]
    if first.device.type != "cuda" or first.dtype not in (torch.float16, torch.bfloat16):
        return None, f"no kernel for {first.device.type} in {first.dtype}"
    runs, reason = triton_runs()
    if not runs:
        return None, reason
    ragged = any(w.stride(1) != 1 or w.stride(0) % 8 or w.data_ptr() % 16 for w in weights_NK)
    if ragged or len(weights_NK) > MOST:
        return None, "rows of the matrices do not begin at multiples of 16 bytes"
    from sinkctl.kernels.row_products import triton

    return triton.row_products, f"one launch for matrices of one input, tiles tuned here ({reason})"
