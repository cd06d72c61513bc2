"""Which implementation of `rotate` runs, and why."""

from collections.abc import Callable

import torch
from torch import Tensor

from sinkctl.kernels.present import triton_runs
from sinkctl.kernels.rotate import reference


def select(x_BHTD: Tensor) -> tuple[Callable[..., Tensor], str]:
    """(implementation, reason) for this device and dtype."""
    if x_BHTD.device.type != "cuda" or x_BHTD.dtype == torch.float64:
        return reference.rotate, f"plain torch: no kernel for {x_BHTD.device.type} in {x_BHTD.dtype}"
    runs, reason = triton_runs()
    if not runs:
        return reference.rotate, f"plain torch: {reason}"
    from sinkctl.kernels.rotate import triton

    return triton.rotate, "Triton: one pass over memory"
