"""The specification of `row_products`, in plain torch. K width of the row, N rows of the matrices, all of them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Norm(NamedTuple):
    """RMSNorm: x / sqrt(mean x² + eps) · gain."""

    gain_K: Tensor
    eps: float


def row_products(
    x_K: Tensor,
    weights_NK: Sequence[Tensor],
    *,
    norm: Norm | None = None,
    gated: bool = False,
    add_N: Tensor | None = None,
) -> Tensor:
    """W x of each matrix W, one after the other, [N], in x's dtype; nothing between is rounded to it.

    `norm` takes x through RMSNorm first. `gated`, of two matrices: silu(W₀ x) · (W₁ x). `add_N` is added at the end.
    """
    precise = torch.promote_types(x_K.dtype, torch.float32)
    x = x_K.to(precise)
    if norm is not None:
        x = x * torch.rsqrt(x.square().mean() + norm.eps) * norm.gain_K.to(precise)
    products = [weight_NK.to(precise) @ x for weight_NK in weights_NK]
    if gated:
        gate, up = products
        products = [torch.nn.functional.silu(gate) * up]
    y_N = torch.cat(products)
    if add_N is not None:
        y_N = y_N + add_N.to(precise)
    return y_N.to(x_K.dtype)
