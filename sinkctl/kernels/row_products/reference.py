"""The specification of `row_products`, in plain torch. K width of the row, N rows of the matrices, all of them."""

from collections.abc import Sequence

import torch
from torch import Tensor


def row_products(x_K: Tensor, weights_NK: Sequence[Tensor]) -> Tensor:
    """The products of each matrix with x_K, one after the other, [N]; summed in float32 or wider, in x's dtype."""
    precise = torch.promote_types(x_K.dtype, torch.float32)
    return torch.cat([weight_NK.to(precise) @ x_K.to(precise) for weight_NK in weights_NK]).to(x_K.dtype)
