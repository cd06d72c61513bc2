"""Which implementation of a linear layer's product runs, and why.

Both are called as torch.nn.functional.linear, which is the specification: x [..., D], weight [E, D], bias [E] or None.
torch gives float32 products to MKL, which on processors that are not Intel's goes a way without AVX-512: half of what
oneDNN, which torch brings too, makes of them (an AMD EPYC with AVX-512: 105 and 225 GFLOP/s on one core).
"""

import platform
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import linear

from sinkctl.kernels.implementation import Implementation


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Without gradients. Of weights with gaps between their rows oneDNN makes a product 500 times slower."""
    if not (weight.is_contiguous() or weight.mT.is_contiguous()):
        weight = weight.contiguous()
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


IMPLEMENTATIONS = {
    implementation.name: implementation
    for implementation in (Implementation("torch", linear), Implementation("onednn", _onednn))
}


def select(weight: Tensor) -> tuple[Implementation, str]:
    """The fastest implementation for a weight like this, where no gradients are asked for, and the reason."""
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return IMPLEMENTATIONS["torch"], "oneDNN gains in float32 on a CPU"
    without, reason = mkl_goes_without_avx512()
    return IMPLEMENTATIONS["onednn" if without else "torch"], reason


@cache
def mkl_goes_without_avx512() -> tuple[bool, str]:
    """(whether it does where oneDNN would not, why or why not)."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False, "this torch lacks MKL or oneDNN"
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False, "the processor has no AVX-512"
    told = Path("/proc/cpuinfo")
    if "AuthenticAMD" not in (told.read_text(errors="replace") if told.exists() else platform.processor()):
        return False, "MKL knows the processor"
    return True, "MKL goes without AVX-512 on an AMD processor"
