"""Which implementation of `decode_attention` runs, and why."""

import torch
from torch import Tensor

from sinkctl.kernels.decode_attention import reference
from sinkctl.kernels.implementation import Implementation
from sinkctl.kernels.present import triton_runs


def _triton(*args, **kwargs) -> Tensor:
    from sinkctl.kernels.decode_attention.triton import decode_attention

    return decode_attention(*args, **kwargs)


IMPLEMENTATIONS = {
    implementation.name: implementation
    for implementation in (
        Implementation("reference", reference.decode_attention),
        Implementation("triton", _triton),
    )
}


def select(device: torch.device, dtype: torch.dtype, width: int) -> tuple[Implementation, str]:
    """The fastest implementation for this device, dtype and head width, and the reason."""
    if device.type != "cuda" or dtype == torch.float64:
        return IMPLEMENTATIONS["reference"], f"plain torch: no kernel for {device.type} in {dtype}"
    runs, reason = triton_runs()
    if not runs or width > 256:
        return IMPLEMENTATIONS["reference"], f"plain torch: {reason if not runs else f'heads of width {width}'}"
    return IMPLEMENTATIONS["triton"], f"split over keys, rotation and store in one kernel ({reason})"
