"""The specification of `rotate`, in plain torch. B batch, H heads, T tokens, D head width, n rotated pairs."""

import torch
from torch import Tensor


def rotate(
    x_BHTD: Tensor, cos_Tn: Tensor, sin_Tn: Tensor, *, start: int, interleaved: bool, out: Tensor | None = None
) -> Tensor:
    """Turn n pairs of dimensions of each row by its angle, from dimension `start` on; the others stay.

    Pairs are (i, i+n), or (2i, 2i+1) where `interleaved`. Computed in the dtype of the tables (float32 or wider),
    returned in that of x; written to `out` (same shape and dtype, other memory) where given.
    """
    pairs = cos_Tn.shape[-1]
    if interleaved:
        first, second = slice(start, start + 2 * pairs, 2), slice(start + 1, start + 2 * pairs, 2)
    else:
        first, second = slice(start, start + pairs), slice(start + pairs, start + 2 * pairs)
    out = torch.empty_like(x_BHTD) if out is None else out
    if 2 * pairs < x_BHTD.shape[-1]:
        out.copy_(x_BHTD)
    x, y = x_BHTD[..., first], x_BHTD[..., second]
    out[..., first] = torch.addcmul(x * cos_Tn, y, sin_Tn, value=-1)
    out[..., second] = torch.addcmul(y * cos_Tn, x, sin_Tn)
    return out
