"""Which implementation of `rounded_decode` runs, and why."""

import torch
from torch import Tensor

from sinkctl.kernels.implementation import Implementation
from sinkctl.kernels.present import triton_runs
from sinkctl.kernels.rounded_decode import cuda, reference
from sinkctl.kernels.rounded_decode.reference import Rule

GROUPS = (16, 32, 64)  # tokens that are rounded together
WIDTHS = (64, 128, 256)


def _triton(*args, **kwargs) -> Tensor:
    from sinkctl.kernels.rounded_decode.triton import rounded_decode

    return rounded_decode(*args, **kwargs)


IMPLEMENTATIONS = {
    implementation.name: implementation
    for implementation in (
        Implementation("reference", reference.rounded_decode),
        Implementation("triton", _triton),
        Implementation("cuda", cuda.rounded_decode),
    )
}


def select(
    rule: Rule, device: torch.device, dtype: torch.dtype, widths: tuple[int, int], share: int, halves: bool
) -> tuple[Implementation | None, str]:
    """(implementation, reason) for keys and values of these widths; None where steps go through as blocks do.

    `share`: query heads a key/value head. `halves` says whether a rotation, if there is one, turns all of a head's
    channels, its first half with its second.
    """
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return None, f"no kernel for {device.type} in {dtype}"
    if rule.bits not in (8, 4, 2):
        return None, f"no kernel for {rule.bits if rule.bits == 'fp8' else f'{rule.bits} bits'}"
    if rule.together not in GROUPS or rule.channels != rule.together:
        return None, f"its kernel takes keys by channel, in groups of {', '.join(map(str, GROUPS))}"
    if widths[0] != widths[1] or widths[0] not in WIDTHS:
        return None, f"no kernel for keys of {widths[0]} and values of {widths[1]} channels"
    if not halves:
        return None, "its kernel turns a head's first half with its second"
    runs, reason = triton_runs()
    if not runs:
        return None, reason
    if cuda.covers(rule, widths, share):
        can, compiler = cuda.loads(device, dtype)
        if can:
            return IMPLEMENTATIONS["cuda"], f"codes go to the tensor cores, split over keys ({reason}, {compiler})"
        reason = f"{reason}; {compiler}"
    return IMPLEMENTATIONS["triton"], f"dequantized in registers, split over keys ({reason})"
