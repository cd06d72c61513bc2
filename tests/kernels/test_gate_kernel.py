"""gated: the specification against torch's own layers, the kernel against float64."""

import os

import pytest
import torch
from torch.nn.functional import silu

from sinkctl.kernels.gate import IMPLEMENTATIONS, gated, select

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def drawn(dtype: torch.dtype, device: str = "cpu") -> list[torch.Tensor]:
    """The same numbers in every dtype, side by side, one gate so far out that its exponential overflows."""
    both = 8 * torch.randn(7, 2, 1401, generator=torch.Generator().manual_seed(0))
    both[3, 0, 5] = -200.0
    return list(both.bfloat16().to(device, dtype).unbind(1))


def test_reference_equals_torch_and_writes_over_the_gate():
    gate_TF, up_TF = drawn(torch.float64)
    expected = silu(gate_TF) * up_TF
    assert gated(gate_TF, up_TF) is gate_TF
    torch.testing.assert_close(gate_TF, expected, rtol=0, atol=1e-13)


@pytest.mark.skipif(not (INTERPRETED or torch.cuda.is_available()), reason="needs a CUDA device or TRITON_INTERPRET=1")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_triton_is_as_close_to_float64_as_plain_torch(dtype):
    if INTERPRETED and dtype == torch.bfloat16:
        pytest.skip("the interpreter is wrong in bfloat16")
    device = "cpu" if INTERPRETED else "cuda"
    truth, by_torch = (gated(*drawn(kind, device)).double() for kind in (torch.float64, dtype))
    by_triton = IMPLEMENTATIONS["triton"](*drawn(dtype, device)).double()
    assert (by_triton - truth).norm() <= 2 * (by_torch - truth).norm()


def test_the_choice_has_a_reason():
    assert select(torch.device("cpu"), torch.float32) == (None, "no kernel for cpu in torch.float32")
