"""row_products: the specification against torch's own layers, the kernel against float64."""

import os

import pytest
import torch
from torch.nn.functional import linear, rms_norm, silu

from sinkctl.kernels.row_products import IMPLEMENTATIONS, Norm, row_products, select

# K, rows of the matrices, gated; the second in pieces of uneven width
SHAPES = [(32, (16, 8, 8), False), (2100, (35, 5), False), (48, (120, 120), True), (200, (40,), False)]
LONG = [(4096, (4096, 1024, 1024), False), (4096, (11008, 11008), True), (11008, (4096,), False)]
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def drawn(shape, dtype, device="cpu", R=1):
    """([x, gain, what is added], matrices), the same numbers in every dtype."""
    K, rows, gated = shape
    draw = torch.Generator().manual_seed(0)
    N = rows[0] if gated else sum(rows)
    sizes = [(R, K), *((n, K) for n in rows), (K,), (R, N)]
    x_RK, *weights, gain_K, add = (torch.randn(size, generator=draw).bfloat16() for size in sizes)
    return [y.to(device, dtype) for y in (x_RK, gain_K, add)], [(w / K**0.5).to(device, dtype) for w in weights]


def run(products, shape, dtype, device="cpu", R=1, with_norm=True, with_sum=True):
    (x_RK, gain_K, add), weights = drawn(shape, dtype, device, R)
    norm = Norm(gain_K, 1e-5) if with_norm else None
    return products(x_RK, weights, norm=norm, gated=shape[2], add=add if with_sum else None)


@pytest.mark.parametrize("shape", SHAPES)
def test_reference_equals_the_layers_of_torch(shape):
    (x_RK, gain_K, add), weights = drawn(shape, torch.float64, R=3)
    parts = [linear(rms_norm(x_RK, gain_K.shape, gain_K, 1e-5), weight) for weight in weights]
    expected = (silu(parts[0]) * parts[1] if shape[2] else torch.cat(parts, 1)) + add
    torch.testing.assert_close(run(row_products, shape, torch.float64, R=3), expected, rtol=0, atol=1e-13)


@pytest.mark.skipif(not (INTERPRETED or torch.cuda.is_available()), reason="needs a CUDA device or TRITON_INTERPRET=1")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("with_norm", "with_sum"), [(True, False), (False, True)])
@pytest.mark.parametrize("shape", [*SHAPES, *LONG])
@pytest.mark.parametrize("R", [1, 3, 8, 20])
def test_triton_is_as_close_to_float64_as_plain_torch(R, shape, with_norm, with_sum, dtype):
    if INTERPRETED and (dtype == torch.bfloat16 or shape in LONG):
        pytest.skip("the interpreter is wrong in bfloat16, and slow")
    device = "cpu" if INTERPRETED else "cuda"
    truth, by_torch, by_triton = (
        run(products, shape, kind, device, R, with_norm, with_sum).double()
        for products, kind in ((row_products, torch.float64), (row_products, dtype), (IMPLEMENTATIONS["triton"], dtype))
    )
    assert (by_triton - truth).norm() <= 2 * (by_torch - truth).norm()


def test_the_choice_has_a_reason():
    assert select([torch.zeros(4, 8)], 1) == (None, "no kernel for cpu in torch.float32")
