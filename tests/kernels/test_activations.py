"""The kernels of activations against their specification; that by hand: tests/metrics/test_massive, test_outliers."""

import os

import pytest
import torch

from sinkctl.kernels.activations import reference

CUDA = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

pytestmark = pytest.mark.skipif(not (INTERPRETED or CUDA), reason="needs a CUDA device or TRITON_INTERPRET=1")


def stream(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Three samples of 40, 7 and 1 tokens, garbage past their ends: massive elements in one, none finite in another."""
    draw = torch.Generator().manual_seed(0)
    h = torch.randn(3, 40, 100, generator=draw) / 20
    h[0, 3, 5], h[0, 0, 99], h[0, 39, 0], h[0, 7, 7] = -2500.0, 900.0, 130.0, 100.0
    h[1, 7:], h[2, 1:], h[2, 0] = 1e4, -1e4, torch.tensor([torch.nan, torch.inf]).repeat(50)
    real = torch.arange(40) < torch.tensor([40, 7, 1])[:, None]
    return h.to("cuda" if CUDA else "cpu", dtype), real.to("cuda" if CUDA else "cpu")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16] if CUDA else [torch.float16])
def test_the_largest_elements_and_the_median_are_the_very_ones(dtype):
    from sinkctl.kernels.activations.triton import massive

    h, real = stream(dtype)
    h[0, 20:] = h[0, 20:].abs() + 0.5  # so that the median lies between two groups
    for one in (h, h[:, :, :97].contiguous(), -h):
        found = massive(one, real, 100.0, 1000.0)
        torch.testing.assert_close(found, reference.massive(one, real, 100.0, 1000.0), rtol=0, atol=0, equal_nan=True)
    assert massive(h, real, 100.0, 1000.0)[:, [4, 7]].tolist() == [[2, 0], [0, 0], [0, 100]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16] if CUDA else [torch.float16])
def test_the_spread_of_elements_is_as_exact_as_in_float32(dtype):
    from sinkctl.kernels.activations.triton import outliers

    h, real = stream(dtype)
    found, truth = outliers(h, real, 6), reference.outliers(h.double(), real, 6)
    torch.testing.assert_close(found[:2].double(), truth[:2], rtol=1e-5, atol=1e-9)
    assert not found[2, :2].isfinite().any()
    assert found[2, 2] == truth[2, 2] == 0
