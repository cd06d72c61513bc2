"""How a model rotates queries and keys, found by running it; and the same rotation, at any distance.

Shapes: B batch, H heads, T tokens, D head width, n rotated pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from sinkctl.kernels.rotate import select


@dataclass(frozen=True, eq=False)
class Rotation:
    """Rotary position embedding (Su et al. 2021, arXiv 2104.09864) of one layer: which pairs turn, and how fast.

    `half` pairs dimension i with i+n (Llama), `interleaved` pairs 2i with 2i+1 (GPT-J); the rotated dimensions are
    `start … start+2n`. Frequencies in radians per position, float64 on the CPU.
    """

    layout: Literal["half", "interleaved"]
    start: int
    inv_freq_n: Tensor
    _copies: dict[torch.device, Tensor] = field(default_factory=dict, repr=False)

    def angles(self, positions: Sequence[int] | range | Tensor) -> Tensor:
        """Angles in float64, [T, n]: float32 ones are off by 0.06 rad a million positions out."""
        position_T = torch.as_tensor(positions, dtype=torch.float64)
        return position_T[:, None] * self._on(position_T.device)

    def _on(self, device: torch.device) -> Tensor:
        """The frequencies on a device; copied once, as a captured graph cannot."""
        if device not in self._copies:
            self._copies[device] = self.inv_freq_n.to(device)
        return self._copies[device]

    def table(self, positions: Sequence[int] | range | Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines, [T, n], on the device of `like`, in float32 or wider."""
        angle_Tn = self.angles(positions)
        dtype = torch.promote_types(like.dtype, torch.float32)
        return angle_Tn.cos().to(like.device, dtype), angle_Tn.sin().to(like.device, dtype)


def table_by_row(by_row: Sequence[Rotation], place_B: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines by row, [B, n]: each of its own place."""
    if all(rotation is by_row[0] for rotation in by_row):
        return by_row[0].table(place_B, like)
    each = [rotation.table(place_B[row : row + 1], like) for row, rotation in enumerate(by_row)]
    return tuple(torch.cat(parts) for parts in zip(*each, strict=True))


def rotate(
    x_BHTD: Tensor, rotation: Rotation | None, table: tuple[Tensor, Tensor] | None, out: Tensor | None = None
) -> Tensor:
    """Turn each row by its angle (into `out` where given); where there is no rotation nothing turns."""
    if rotation is None or table is None:
        return x_BHTD if out is None else out.copy_(x_BHTD)
    kernel, _ = select(x_BHTD)
    return kernel(x_BHTD, *table, start=rotation.start, interleaved=rotation.layout == "interleaved", out=out)
