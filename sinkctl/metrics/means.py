"""Means over a sample's tokens; NaN where there is none to take."""

import torch
from torch import Tensor


def precise(x: Tensor) -> Tensor:
    """In float32, or float64 if it is already."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def precise_product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b of batches of matrices, in float32 or wider; half precision on a GPU as it is: its products are exact."""
    if a.is_cuda and a.dtype == b.dtype and a.dtype in (torch.float16, torch.bfloat16):
        return torch.bmm(a, b, out_dtype=torch.float32)
    return precise(a) @ precise(b)


def precise_norm(x: Tensor) -> Tensor:
    """‖x‖ over the last dimension, taken in float32, or float64 if it is already."""
    return torch.linalg.vector_norm(x, dim=-1, dtype=torch.promote_types(x.dtype, torch.float32))


def mean_over(x: Tensor, counted: Tensor) -> Tensor:
    """Mean over the last dimension of the elements that count; `counted` broadcasts against x."""
    return torch.where(counted, x, 0.0).sum(-1) / counted.sum(-1)


def after_first(real_NT: Tensor) -> Tensor:
    """The real tokens but the first."""
    return real_NT & (torch.arange(real_NT.shape[-1], device=real_NT.device) > 0)


def first_and_rest(x: Tensor, rest: Tensor) -> Tensor:
    """The first token's number and the mean of the `rest`: [..., T] → [..., 2]; `rest` broadcasts against x."""
    return torch.stack([x[..., 0], mean_over(x, rest)], dim=-1)
