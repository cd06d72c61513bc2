"""Means over a sample's tokens; NaN where there is none to take."""

import torch
from torch import Tensor


def precise(x: Tensor) -> Tensor:
    """In float32, or float64 if it is already."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def mean_over(x: Tensor, counted: Tensor) -> Tensor:
    """Mean over the last dimension of the elements that count; `counted` broadcasts against x."""
    return torch.where(counted, x, 0.0).sum(-1) / counted.expand_as(x).sum(-1)


def after_first(real_NT: Tensor) -> Tensor:
    """The real tokens but the first."""
    return real_NT & (torch.arange(real_NT.shape[-1], device=real_NT.device) > 0)


def first_and_rest(x: Tensor, real: Tensor) -> Tensor:
    """The first token's number and the mean of the others': [..., T] → [..., 2]; `real` broadcasts against x."""
    return torch.stack([x[..., 0], mean_over(x, after_first(real))], dim=-1)
