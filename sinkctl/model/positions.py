"""How a model rotates queries and keys, found by running it; and the same rotation, at any distance.

Shapes: B batch, H heads, T tokens, D head width, n rotated pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Rotation:
    """Rotary position embedding (Su et al. 2021, arXiv 2104.09864) of one layer: which pairs turn, and how fast.

    `half` pairs dimension i with i+n (Llama), `interleaved` pairs 2i with 2i+1 (GPT-J); the rotated dimensions are
    `start … start+2n`. Frequencies in radians per position, float64 on the CPU.
    """

    layout: Literal["half", "interleaved"]
    start: int
    inv_freq_n: Tensor

    def angles(self, positions: Sequence[int] | range | Tensor) -> Tensor:
        """Angles in float64, [T, n]: float32 ones are off by 0.06 rad a million positions out."""
        position_T = torch.as_tensor(positions, dtype=torch.float64)
        return position_T[:, None] * self.inv_freq_n

    def table(self, positions: Sequence[int] | range | Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines, [T, n], on the device of `like`, in float32 or wider."""
        angle_Tn = self.angles(positions)
        dtype = torch.promote_types(like.dtype, torch.float32)
        return angle_Tn.cos().to(like.device, dtype), angle_Tn.sin().to(like.device, dtype)


def rotate(x_BHTD: Tensor, rotation: Rotation | None, table: tuple[Tensor, Tensor] | None) -> Tensor:
    """Turn each row by its angle, computed in float32 or wider and returned in the dtype of x; None turns nothing."""
    if rotation is None or table is None:
        return x_BHTD
    cos_Tn, sin_Tn = table
    pairs, start = cos_Tn.shape[-1], rotation.start
    out = x_BHTD.clone() if 2 * pairs < x_BHTD.shape[-1] else torch.empty_like(x_BHTD)
    if rotation.layout == "half":
        first, second = slice(start, start + pairs), slice(start + pairs, start + 2 * pairs)
    else:
        first, second = slice(start, start + 2 * pairs, 2), slice(start + 1, start + 2 * pairs, 2)
    x, y = x_BHTD[..., first], x_BHTD[..., second]
    out[..., first] = torch.addcmul(x * cos_Tn, y, sin_Tn, value=-1)
    out[..., second] = torch.addcmul(y * cos_Tn, x, sin_Tn)
    return out
