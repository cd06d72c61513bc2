"""Which implementation of `losses` runs, and why."""

import torch
from torch import Tensor

from sinkctl.kernels.implementation import Implementation
from sinkctl.kernels.losses import reference
from sinkctl.kernels.present import triton_runs


def _triton(*args, **kwargs) -> Tensor:
    from sinkctl.kernels.losses.triton import losses

    return losses(*args, **kwargs)


IMPLEMENTATIONS = {
    implementation.name: implementation
    for implementation in (Implementation("reference", reference.losses), Implementation("triton", _triton))
}


def select(logits_NV: Tensor) -> tuple[Implementation, str]:
    """(implementation, reason)."""
    if logits_NV.device.type != "cuda" or logits_NV.dtype == torch.float64 or logits_NV.stride(-1) != 1:
        return IMPLEMENTATIONS["reference"], f"plain torch: no kernel for {logits_NV.device.type}, {logits_NV.dtype}"
    runs, reason = triton_runs()
    return IMPLEMENTATIONS["triton" if runs else "reference"], reason
