"""The specification of `row_products`, in plain torch. R rows of x, K wide; N rows of the matrices, all of them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Norm(NamedTuple):
    """RMSNorm: x / sqrt(mean x² + eps) · gain."""

    gain_K: Tensor
    eps: float


def row_products(
    x_RK: Tensor,
    weights_NK: Sequence[Tensor],
    *,
    norm: Norm | None = None,
    gated: bool = False,
    add: Tensor | None = None,
) -> Tensor:
    """W x of each row x and matrix W, one after the other, [R, N], in x's dtype; nothing between is rounded to it.

    Of several rows an implementation may round what the norm gives to that dtype, as a layer's own norm does.

    `norm` takes x through RMSNorm first. `gated`, of two matrices: silu(W₀ x) · (W₁ x). `add`, [R, N] or [N], is added
    at the end.
    """
    precise = torch.promote_types(x_RK.dtype, torch.float32)
    x = x_RK.to(precise)
    if norm is not None:
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.eps) * norm.gain_K.to(precise)
    products = [x @ weight_NK.to(precise).mT for weight_NK in weights_NK]
    if gated:
        gate, up = products
        products = [torch.nn.functional.silu(gate) * up]
    y_RN = torch.cat(products, -1)
    if add is not None:
        y_RN = y_RN + add.to(precise)
    return y_RN.to(x_RK.dtype)
