"""The kernels of query_sums against their specification; that against closed forms and loops: tests/metrics."""

import os

import pytest
import torch

from sinkctl.kernels.column_sums import Visible, column_sums
from sinkctl.kernels.query_sums import QuerySums, query_sums, reference

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
CUDA = torch.cuda.is_available()
# H, G, T, window, D, leading, local
SHAPES = [(4, 2, 200, None, 16, 4, 64), (3, 1, 150, 70, 24, 0, 200), (2, 2, 130, 5, 80, 20, 3), (2, 1, 1, 1, 16, 4, 64)]
LONG = [(8, 2, 1500, None, 128, 4, 64), (2, 2, 1500, 100, 256, 4, 64), (4, 4, 300, None, 64, 40, 200)]
BENDS = {"plain": lambda H: {}, "bent": lambda H: dict(softcap=1.5, slope_H=0.5 ** torch.arange(1, H + 1))}

pytestmark = pytest.mark.skipif(not (INTERPRETED or CUDA), reason="needs a CUDA device or TRITON_INTERPRET=1")


def normal(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    draw = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=draw, dtype=torch.float64).to("cuda" if CUDA else "cpu", dtype)


def flat(sums: QuerySums) -> list[torch.Tensor]:
    return [*sums.against, sums.leading_BHTK, sums.near_BHT]


@pytest.mark.parametrize("bend", BENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16] if CUDA else [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", [*SHAPES, *(LONG if CUDA else [])])
def test_the_kernels_are_float32_of_what_they_are_given(shape, dtype, bend):
    from sinkctl.kernels.query_sums.triton import fused_sums

    H, G, T, window, D, leading, local = shape
    q, k = (normal(2, T, heads, D, dtype=dtype).transpose(1, 2) for heads in (H, G))
    bends = {name: x.to(q.device) if isinstance(x, torch.Tensor) else x for name, x in BENDS[bend](H).items()}
    options = dict(scale=D**-0.5, visible=Visible(window=window), **bends)
    lse = column_sums(q.double(), k.double(), k.double(), **options).lse_BHT
    options |= dict(leading=leading, local=local)
    truth = query_sums(q.double(), k.double(), lse, **options)
    found = fused_sums(q, k, lse.float(), **options)
    for name, a, b in zip((*truth.against._fields, *truth._fields[1:]), flat(found), flat(truth), strict=True):
        assert a.dtype == torch.float32
        assert a.isfinite().all()
        a = a[..., : b.shape[-1]]  # of fewer tokens than leading keys
        torch.testing.assert_close(
            a.double(), b, rtol=1e-5, atol=1e-5 * D**0.5, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16] if CUDA else [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", [*SHAPES, *(LONG if CUDA else [])])
def test_what_heads_write_and_norms_are_as_exact_as_in_float32(shape, dtype):
    from sinkctl.kernels.query_sums.triton import fused_norm, fused_written

    H, G, T, _, E, *_ = shape
    x, w_HCE = normal(2, G, T, E, dtype=dtype), normal(H, 3 * E, E, dtype=torch.float64)
    gram = (w_HCE.mT @ w_HCE).float()
    for found, plain, truth in (
        (fused_written(x, gram), reference.written_norm(x.float(), gram), reference.written_norm(x.double(), gram)),
        (fused_norm(x), x.float().norm(dim=-1), x.double().norm(dim=-1)),
    ):
        assert found.dtype == torch.float32
        assert off(found, truth) <= 2 * off(plain, truth) + 1e-7


def off(found: torch.Tensor, truth: torch.Tensor) -> float:
    """The greatest relative error."""
    return float((found.double() / truth - 1).abs().max())
