"""Which implementation of `column_sums` runs, and why."""

import torch
from torch import Tensor

from sinkctl.kernels.column_sums import reference, tiled, weighed
from sinkctl.kernels.column_sums.reference import AttentionSums, Visible
from sinkctl.kernels.implementation import Implementation
from sinkctl.kernels.present import triton_runs


def _triton(*args, **kwargs) -> AttentionSums:
    from sinkctl.kernels.column_sums.triton import triton_sums

    return triton_sums(*args, **kwargs)


IMPLEMENTATIONS = {
    implementation.name: implementation
    for implementation in (
        Implementation("reference", reference.column_sums),
        Implementation("tiled", tiled.tiled),
        Implementation("triton", _triton),
        Implementation("weighed", weighed.weighed),
    )
}


def select(
    q_BHTD: Tensor, v_BGSE: Tensor, visible: Visible, sink_logit_H: Tensor | None = None, weighed_by: str | None = None
) -> tuple[Implementation, str]:
    """The fastest implementation for this device, dtype, shape, mask and sink logit, and the reason.

    `weighed_by` names what gives the weights where it is no plain softmax; that implementation takes it as `weigh`.
    """
    if weighed_by is not None:
        return IMPLEMENTATIONS["weighed"], f"plain torch: {weighed_by} is no plain softmax"
    device, width = q_BHTD.device.type, max(q_BHTD.shape[-1], v_BGSE.shape[-1])
    if device != "cuda" or q_BHTD.dtype not in (torch.float16, torch.bfloat16):
        return IMPLEMENTATIONS["tiled"], f"matrix products in tiles: no kernel for {device} in {q_BHTD.dtype}"
    runs, reason = triton_runs()
    if not runs:
        return IMPLEMENTATIONS["tiled"], f"matrix products in tiles: {reason}"
    if not visible.causal:
        lacks = "attention in both directions"
    elif visible.segment_BT is not None:
        lacks = "padded or packed rows"
    elif visible.also is not None:
        lacks = "the mask of this model"
    elif sink_logit_H is not None and sink_logit_H.dim() == 3:
        lacks = "a sink logit that depends on the query"
    elif width > 256:
        lacks = f"width {width}"
    else:
        return IMPLEMENTATIONS["triton"], f"one kernel over rows, one over columns ({reason})"
    return IMPLEMENTATIONS["tiled"], f"matrix products in tiles: no kernel for {lacks}"
