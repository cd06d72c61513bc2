"""Products of one row: the kernel against float64, whatever the tile."""

import os

import pytest
import torch

from sinkctl.kernels.row_products import row_products, select

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
needs_kernel = pytest.mark.skipif(
    not (INTERPRETED or torch.cuda.is_available()), reason="needs a CUDA device or TRITON_INTERPRET=1"
)
# width of the row, rows of the matrices
SHAPES = [(64, (40,)), (104, (7, 9)), (4096, (12, 5, 3)), (72, (33, 1, 20))]


def drawn(width, rows, dtype):
    draw = torch.Generator().manual_seed(0)
    device = "cpu" if INTERPRETED or not torch.cuda.is_available() else "cuda"
    x_K, *weights_NK = (torch.randn(*n, width, generator=draw).to(device, dtype) for n in ((), *((n,) for n in rows)))
    return x_K, weights_NK


def test_the_reference_is_one_product_after_the_other():
    x_K, weights_NK = torch.tensor([1.0, 10.0]), [torch.eye(2), torch.tensor([[1.0, 1.0]])]
    assert row_products(x_K, weights_NK).tolist() == [1, 10, 11]
    assert select(weights_NK) == (None, "no kernel for cpu in torch.float32")


@needs_kernel
@pytest.mark.parametrize("shape", SHAPES)
def test_the_kernel_errs_no_more_than_its_sums_in_float32(shape):
    from sinkctl.kernels.row_products.triton import TILES, _launch

    for dtype in (torch.float32,) if INTERPRETED else (torch.bfloat16, torch.float16):
        x_K, weights_NK = drawn(*shape, dtype)
        truth = row_products(x_K.double(), [weight.double() for weight in weights_NK])
        for tile in TILES[:2] if INTERPRETED else TILES:
            found = torch.full_like(truth, torch.nan, dtype=dtype)
            _launch(x_K, weights_NK, found, tile)
            allowed = 2 * (row_products(x_K, weights_NK) - truth).norm()
            assert (found - truth).norm() <= max(allowed, 1e-6 * truth.norm())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_products_are_tuned_once_and_replayed_in_a_graph():
    x_K, weights_NK = drawn(1024, (2048, 256, 256), torch.bfloat16)
    products, _ = select(weights_NK)
    truth = row_products(x_K.double(), [weight.double() for weight in weights_NK])
    products(x_K, weights_NK)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = products(x_K, weights_NK)
    graph.replay()
    assert (found - truth).norm() <= 2 * (row_products(x_K, weights_NK) - truth).norm()
