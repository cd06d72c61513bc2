"""Whether the kernels of `query_sums` run, and they themselves, imported when they are used."""

import torch
from torch import Tensor

from sinkctl.kernels.column_sums import Visible
from sinkctl.kernels.present import triton_runs
from sinkctl.kernels.query_sums import reference
from sinkctl.kernels.query_sums.reference import QuerySums

WIDEST = 256


def fused(x_BHTD: Tensor, visible: Visible) -> bool:
    """Half precision on CUDA and a mask that is plainly causal; else the parts of the reference, as they are needed."""
    return visible.causal and visible.also is None and _fits(x_BHTD)


def fused_sums(*args, **kwargs) -> QuerySums:
    from sinkctl.kernels.query_sums.triton import fused_sums

    return fused_sums(*args, **kwargs)


def written_norm(x_BGTE: Tensor, gram_HEF: Tensor) -> Tensor:
    """As the reference's, by a kernel where one runs."""
    if not _fits(x_BGTE) or gram_HEF.dtype != torch.float32:
        return reference.written_norm(x_BGTE, gram_HEF)
    from sinkctl.kernels.query_sums.triton import fused_written

    return fused_written(x_BGTE, gram_HEF)


def norm(x_BGTE: Tensor) -> Tensor:
    """‖x‖ over the last dimension, in float32 or wider, by a kernel where one runs."""
    if not _fits(x_BGTE):
        return torch.linalg.vector_norm(x_BGTE, dim=-1, dtype=torch.promote_types(x_BGTE.dtype, torch.float32))
    from sinkctl.kernels.query_sums.triton import fused_norm

    return fused_norm(x_BGTE)


def _fits(x_BHTD: Tensor) -> bool:
    half = x_BHTD.device.type == "cuda" and x_BHTD.dtype in (torch.float16, torch.bfloat16)
    return half and 0 < x_BHTD.shape[-1] <= WIDEST and x_BHTD.stride(-1) == 1 and triton_runs()[0]
