"""Which implementation of `stream_attention` runs, and why."""

from functools import partial

import torch
from torch import Tensor

from sinkctl.kernels.implementation import Implementation
from sinkctl.kernels.present import FA3_WIDTHS, fa3_runs, triton_runs
from sinkctl.kernels.stream_attention import cuda_flash, reference, tiled, weighed


def _triton(*args, **kwargs) -> Tensor:
    from sinkctl.kernels.stream_attention.triton import triton_attention

    return triton_attention(*args, **kwargs)


def _fa3(*args, **kwargs) -> Tensor:
    from sinkctl.kernels.stream_attention.fa3 import fa3_attention

    return fa3_attention(*args, **kwargs)


IMPLEMENTATIONS = {
    implementation.name: implementation
    for implementation in (
        Implementation("reference", reference.stream_attention),
        Implementation("tiled", partial(tiled.tiled, tiled.matmul_partial)),
        Implementation("tiled_cpu_flash", partial(tiled.tiled, tiled.cpu_flash_partial)),
        Implementation("tiled_linear", partial(tiled.tiled, tiled.linear_partial)),
        Implementation("cuda_flash", cuda_flash.cuda_flash),
        Implementation("triton", _triton),
        Implementation("fa3", _fa3),
        Implementation("weighed", weighed.weighed),
    )
}


def select(
    q_BHTD: Tensor, v_BGSE: Tensor, softcap: float | None = None, alibi: bool = False, weighed_by: str | None = None
) -> tuple[Implementation, str]:
    """The fastest implementation for this device, dtype and shape, and the reason.

    `weighed_by` names what gives the weights where it is no softmax; that implementation takes it as `weigh`.
    """
    if weighed_by is not None:
        return IMPLEMENTATIONS["weighed"], f"plain torch: {weighed_by} is no softmax"
    device, width, value_width = q_BHTD.device.type, q_BHTD.shape[-1], v_BGSE.shape[-1]
    lacks = "softcap" if softcap is not None else "values of another width than keys" if width != value_width else None
    gains, why = tiled.linear_gains(q_BHTD)
    if gains:
        return IMPLEMENTATIONS["tiled_linear"], f"a key/value head at a time, {why}"
    if device == "cpu" and lacks is None:
        return IMPLEMENTATIONS["tiled_cpu_flash"], "torch's CPU flash operator, in tiles of queries"
    if device == "cpu":
        return IMPLEMENTATIONS["tiled"], f"matrix products in tiles: the CPU flash operator has no {lacks}"
    if device != "cuda" or q_BHTD.dtype not in (torch.float16, torch.bfloat16):
        return IMPLEMENTATIONS["tiled"], f"matrix products in tiles: no kernel for {device} in {q_BHTD.dtype}"
    hopper, what = fa3_runs()
    if hopper and lacks is None and not alibi and width in FA3_WIDTHS:
        return IMPLEMENTATIONS["fa3"], f"the band by {what}; strip and sink logit folded in by one kernel"
    lacks = "ALiBi" if alibi else f"heads of {width}" if lacks is None and width % 8 else lacks
    runs, reason = triton_runs(anyway=lacks is not None)  # tiles wait for launches longer than a kernel compiles
    if runs and max(width, value_width) <= 256:
        return IMPLEMENTATIONS["triton"], f"one kernel for band, strip and sink logit ({reason})"
    if lacks is None and width <= 256:
        return IMPLEMENTATIONS["cuda_flash"], f"torch's CUDA flash operator and a merged strip: {reason}"
    if lacks is not None:
        reason += f", and the CUDA flash operator has no {lacks}"
    return IMPLEMENTATIONS["tiled"], f"matrix products in tiles: {reason}"
