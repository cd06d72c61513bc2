"""Plain functions of tensors as one pass over memory instead of several, where Triton compiles them."""

from collections.abc import Callable
from functools import cache

import torch

from sinkctl.kernels.present import triton_runs


def fused(function: Callable, on: torch.device) -> Callable:
    """The function, compiled for tensors of any sizes where they are on a GPU; elsewhere as it is."""
    return _compiled(function) if on.type == "cuda" and triton_runs()[0] else function


@cache
def _compiled(function: Callable) -> Callable:
    return torch.compile(function, dynamic=True)
