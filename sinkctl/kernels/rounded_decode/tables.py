"""Angles as the kernels of `rounded_decode` read them."""

import torch
from torch import Tensor

from sinkctl.kernels.rounded_decode.reference import Angles


def tables_of(angles: Angles, bits: int) -> tuple[Tensor, ...]:
    """As kernels read them, cosines before sines: coarse and fine, [·, 2, x] in float32; those that each word's codes
    meet, lifted, [2, t, W, F] words; and fine once more, [2, t, x] in float16."""
    if bits not in angles.copies:
        words, fields_ = angles.fine_cos_tn.shape[-1] * bits // 32, 16 // bits
        coarse = torch.stack([angles.coarse_cos_An, angles.coarse_sin_An], 1).float().contiguous()
        fine = torch.stack([angles.fine_cos_tn, angles.fine_sin_tn], 1).float().contiguous()
        plain_2tx = fine.transpose(0, 1).contiguous()
        lifted_F = 2.0 ** (15 - torch.arange(fields_, device=fine.device) % (10 // bits) * bits)
        met = plain_2tx.unflatten(-1, (words, 2, fields_)).transpose(-2, -1) * lifted_F[:, None]
        angles.copies[bits] = (
            coarse,
            fine,
            met.half().contiguous().view(torch.int32)[..., 0].contiguous(),
            plain_2tx.half(),
        )
    return angles.copies[bits]
