"""Which implementation of `sink_attention` runs, and why."""

from functools import partial

import torch
from torch import Tensor

from sinkctl.kernels import present
from sinkctl.kernels.implementation import Implementation
from sinkctl.kernels.present import triton_runs
from sinkctl.kernels.sink_attention import flash, reference, stock


def _flex(*args, **kwargs) -> Tensor:
    from sinkctl.kernels.sink_attention.flex import sink_attention

    return sink_attention(*args, **kwargs)


def _cudnn_window(*args, **kwargs) -> Tensor:
    from sinkctl.kernels.sink_attention.cudnn_graphs import CudnnWindow

    return flash.sink_attention(*args, by=CudnnWindow, **kwargs)


# Tokens from which, on an H200, cuDNN is the fastest, and FlexAttention is faster than the flash operator (no window).
CUDNN, LONG = 8192, 16_384
IMPLEMENTATIONS = {
    implementation.name: implementation
    for implementation in (
        Implementation("reference", reference.sink_attention),
        Implementation("flash", flash.sink_attention),
        Implementation("flex", _flex),
        Implementation("cudnn", partial(flash.sink_attention, by=stock.Cudnn)),
        Implementation("cudnn_window", _cudnn_window),
        Implementation("fa3", partial(flash.sink_attention, by=stock.Fa3)),
    )
}


def select(
    q_BHTD: Tensor, softcap: float | None = None, window: int | None = None, documents: bool = False
) -> tuple[Implementation, str]:
    """The fastest implementation for this device, dtype, shape, softcap, window and documents, and the reason."""
    device, dtype, width = q_BHTD.device.type, q_BHTD.dtype, q_BHTD.shape[-1]
    if device == "cpu" and softcap is None:
        return IMPLEMENTATIONS["flash"], "torch's CPU flash operator, the sink in its log-sum-exp"
    if device == "cpu":
        lacks = "the CPU flash operator has no softcap"
    elif device != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        lacks = f"no kernel for {device} in {dtype}"
    elif torch.version.hip is not None:
        lacks = "not tried on ROCm"
    elif torch.cuda.get_device_capability(q_BHTD.device) < (8, 0):
        lacks = "the GPU is older than compute capability 8.0"
    elif softcap is None and (width > 256 or width % 8):
        lacks = f"the CUDA flash operator has no heads of {width}"
    elif softcap is None and (found := _on_hopper(q_BHTD, window, documents)) is not None:
        return found
    else:
        (runs, reason), long = triton_runs(), window is None and q_BHTD.shape[2] >= LONG
        if runs and 16 <= width <= 256 and (softcap is not None or long):
            why = f"faster over {LONG:,} tokens and more" if long else "the CUDA flash operator has no softcap"
            return IMPLEMENTATIONS["flex"], f"FlexAttention: {why} ({reason})"
        if softcap is None:
            return IMPLEMENTATIONS["flash"], "torch's CUDA flash operator, the sink in its log-sum-exp"
        lacks = f"FlexAttention has no heads of {width}" if runs else reason
    return IMPLEMENTATIONS["reference"], f"plain torch, with a T×T map: {lacks}"


def _on_hopper(q_BHTD: Tensor, window: int | None, documents: bool) -> tuple[Implementation, str] | None:
    """What is faster than torch's flash operator there, if anything."""
    tokens, width = q_BHTD.shape[2], q_BHTD.shape[-1]
    if not present.hopper(q_BHTD) or tokens < CUDNN:
        return None
    whole, among = window is None or window >= tokens - 1, f"faster over {CUDNN:,} tokens and more"
    cudnn = torch.backends.cudnn.is_available() and width <= 128 and not documents
    if whole and cudnn:
        return IMPLEMENTATIONS["cudnn"], f"cuDNN, the sink in its log-sum-exp: {among}"
    graphs, reason = present.cudnn_graphs_run()
    if not whole and cudnn and graphs:
        return IMPLEMENTATIONS["cudnn_window"], f"cuDNN's windows, the sink in its log-sum-exp: {among} ({reason})"
    fa3, reason = present.fa3_runs()
    if not whole and fa3 and width in present.FA3_WIDTHS:
        return IMPLEMENTATIONS["fa3"], f"forward by {reason}, backward by torch's flash operator: {among}"
    return None
