"""Which implementation of `row_products` runs, and why."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sinkctl.kernels.implementation import Implementation
from sinkctl.kernels.present import hopper, triton_runs
from sinkctl.kernels.row_products import reference

MOST_ROWS = 32  # of x
NARROWEST = 4096  # numbers in a row of a matrix, where x has several: narrower ones were not measured


def _triton(x_RK: Tensor, *args, **kwargs) -> Tensor:
    if len(x_RK) == 1:
        from sinkctl.kernels.row_products.triton import row_products
    else:
        from sinkctl.kernels.row_products.rows import row_products
    return row_products(x_RK, *args, **kwargs)


IMPLEMENTATIONS = {
    implementation.name: implementation
    for implementation in (Implementation("reference", reference.row_products), Implementation("triton", _triton))
}


def select(weights_NK: Sequence[Tensor], rows: int) -> tuple[Implementation | None, str]:
    """(implementation, reason); None where nothing is faster than torch's own products."""
    if rows > MOST_ROWS:
        return None, f"a step has {rows} rows, and the kernel is for {MOST_ROWS} at most"
    for weight in weights_NK:
        if not weight.is_cuda or weight.dtype not in (torch.float16, torch.bfloat16):
            return None, f"no kernel for {weight.device.type} in {weight.dtype}"
        if weight.stride(1) != 1 or weight.stride(0) % 8:
            return None, "matrices are not laid out row by row"
        if rows > 1 and not hopper(weight):
            return None, "several rows were measured on compute capability 9.0 alone"
        if rows > 1 and weight.shape[1] < NARROWEST:
            return None, f"several rows were measured with matrices of {NARROWEST:,} columns or more"
    runs, reason = triton_runs()
    if not runs:
        return None, reason
    launches = "four" if rows == 1 else "six"  # norms apart
    return IMPLEMENTATIONS["triton"], f"{launches} launches a layer, every matrix read once ({reason})"
