"""losses: the kernel against float64, and what is no number."""

import os

import pytest
import torch

from sinkctl.kernels.losses import IMPLEMENTATIONS, losses, select

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
runs = pytest.mark.skipif(
    not (INTERPRETED or torch.cuda.is_available()), reason="needs a CUDA device or TRITON_INTERPRET=1"
)


def drawn(vocabulary: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits, targets); the rows lie apart in memory, and some begin with -inf, as heads that mask ids give."""
    draw = torch.Generator().manual_seed(0)
    wide = 6 * torch.randn(5, vocabulary + 8, generator=draw)
    wide[2:4, :300] = -torch.inf
    wide[1] += 300  # exp overflows
    target_N = torch.randint(vocabulary // 2, vocabulary, (5,), generator=draw)
    return wide.bfloat16().to(DEVICE, dtype)[:, :vocabulary], target_N.to(DEVICE)


@runs
@pytest.mark.parametrize("vocabulary", [701, 5000, 9001])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_triton_gives_the_losses_of_float64(vocabulary, dtype):
    if INTERPRETED and dtype == torch.bfloat16:
        pytest.skip("the interpreter is wrong in bfloat16")
    logits_NV, target_N = drawn(vocabulary, dtype)
    truth = losses(logits_NV.double(), target_N)
    found = IMPLEMENTATIONS["triton"](logits_NV, target_N)
    torch.testing.assert_close(found.double(), truth, rtol=1e-6, atol=2e-6)


@runs
def test_triton_hides_no_broken_logit_and_no_target_outside_the_vocabulary():
    logits_NV, target_N = drawn(5000)
    logits_NV[0, 4500], logits_NV[1, 17], target_N[2] = torch.nan, torch.inf, 5000
    found = IMPLEMENTATIONS["triton"](logits_NV, target_N)
    assert found.isfinite().tolist() == [False, False, False, True, True]


def test_the_choice_has_a_reason():
    assert select(torch.zeros(2, 3))[1] == "plain torch: no kernel for cpu, torch.float32"
