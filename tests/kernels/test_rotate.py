"""Rotation against complex products, and the Triton kernel against the reference."""

import pytest
import torch

from sinkctl.kernels.rotate import rotate

# width, pairs, first rotated dimension, interleaved
LAYOUTS = [(64, 32, 0, False), (16, 2, 0, False), (16, 4, 8, False), (16, 4, 0, True), (64, 32, 0, True)]


def inputs(width: int, pairs: int, dtype: torch.dtype):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, 37, 3, width, generator=draw, dtype=torch.float64).to(dtype).transpose(1, 2)
    angle = torch.randn(37, pairs, generator=draw, dtype=torch.float64)
    precise = torch.promote_types(dtype, torch.float32)
    return x, angle, (angle.cos().to(precise), angle.sin().to(precise))


@pytest.mark.parametrize(("width", "pairs", "start", "interleaved"), LAYOUTS)
def test_a_pair_turns_as_a_complex_number_and_the_rest_stays(width, pairs, start, interleaved):
    x, angle, table = inputs(width, pairs, torch.float64)
    dims = torch.arange(start, start + 2 * pairs)
    first, second = (dims[::2], dims[1::2]) if interleaved else (dims[:pairs], dims[pairs:])
    turned = torch.complex(x[..., first], x[..., second]) * torch.exp(1j * angle)
    expected = x.clone()
    expected[..., first], expected[..., second] = turned.real, turned.imag
    out = torch.full_like(x, torch.nan)
    found = rotate(x, *table, start=start, interleaved=interleaved, out=out)
    assert found is out
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("width", "pairs", "start", "interleaved"), LAYOUTS)
def test_the_triton_kernel_turns_as_the_reference_does(width, pairs, start, interleaved, dtype):
    from sinkctl.kernels.rotate.triton import rotate as triton_rotate

    x, _, table = inputs(width, pairs, dtype)
    x, table = x.cuda(), [part.cuda() for part in table]
    found = triton_rotate(x, *table, start=start, interleaved=interleaved)
    expected = rotate(x, *table, start=start, interleaved=interleaved)
    torch.testing.assert_close(found, expected, rtol=1e-2 if dtype == torch.bfloat16 else 0, atol=1e-5)
