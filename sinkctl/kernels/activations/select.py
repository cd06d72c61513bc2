"""The kernels where they run: half precision on CUDA; else plain torch."""

import torch
from torch import Tensor

from sinkctl.kernels.activations import reference
from sinkctl.kernels.present import triton_runs

WIDEST = 1 << 14  # channels


def massive(h_NTC: Tensor, real_NT: Tensor, size: float, ratio: float) -> Tensor:
    """As the reference's."""
    if not _fits(h_NTC):
        return reference.massive(h_NTC, real_NT, size, ratio)
    from sinkctl.kernels.activations.triton import massive

    return massive(h_NTC, real_NT, size, ratio)


def outliers(h_NTC: Tensor, real_NT: Tensor, deviations: float) -> Tensor:
    """As the reference's."""
    if not _fits(h_NTC):
        return reference.outliers(h_NTC, real_NT, deviations)
    from sinkctl.kernels.activations.triton import outliers

    return outliers(h_NTC, real_NT, deviations)


def _fits(h_NTC: Tensor) -> bool:
    half = h_NTC.device.type == "cuda" and h_NTC.dtype in (torch.float16, torch.bfloat16)
    return half and 3 <= h_NTC.shape[-1] <= WIDEST and h_NTC.stride(-1) == 1 and triton_runs()[0]
