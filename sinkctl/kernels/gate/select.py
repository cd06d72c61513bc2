"""Which implementation of `gated` runs, and why."""

import torch
from torch import Tensor

from sinkctl.kernels.gate import reference
from sinkctl.kernels.implementation import Implementation
from sinkctl.kernels.present import triton_runs


def _triton(*args, **kwargs) -> Tensor:
    from sinkctl.kernels.gate.triton import gated

    return gated(*args, **kwargs)


IMPLEMENTATIONS = {
    implementation.name: implementation
    for implementation in (Implementation("reference", reference.gated), Implementation("triton", _triton))
}


def select(device: torch.device, dtype: torch.dtype) -> tuple[Implementation | None, str]:
    """(implementation, reason); None where nothing does it in one pass over memory."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return None, f"no kernel for {device.type} in {dtype}"
    runs, reason = triton_runs()
    return (IMPLEMENTATIONS["triton"] if runs else None), reason
