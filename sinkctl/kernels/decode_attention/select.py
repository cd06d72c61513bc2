"""Which implementation of `decode_attention` runs, and why."""

import torch
from torch import Tensor

from sinkctl.kernels.decode_attention import reference
from sinkctl.kernels.decode_attention.reference import Ring
from sinkctl.kernels.implementation import Implementation
from sinkctl.kernels.present import triton_runs

# All sinks of a head are one tile on chip.
SINK_TILE = 64 * 128


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


def select(ring: Ring, value_width: int) -> tuple[Implementation, str]:
    """The fastest implementation for this device, dtype and shape, and the reason."""
    device, dtype = ring.k_BGRD.device, ring.k_BGRD.dtype
    width, sinks = max(ring.k_BGRD.shape[-1], value_width), ring.sink_k_BGSD.shape[2]
    if device.type != "cuda" or dtype == torch.float64:
        return IMPLEMENTATIONS["reference"], f"plain torch: no kernel for {device.type} in {dtype}"
    runs, reason = triton_runs()
    if not runs:
        return IMPLEMENTATIONS["reference"], f"plain torch: {reason}"
    if width > 256 or sinks * width > SINK_TILE:
        return IMPLEMENTATIONS["reference"], f"plain torch: {sinks} sinks of width {width} do not fit one tile"
    return IMPLEMENTATIONS["triton"], f"split over keys, rotation and store in one kernel ({reason})"
