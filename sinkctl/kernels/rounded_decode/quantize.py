"""Numbers in few bits, and back.

Shapes: … any leading axes, T tokens that share a range (1 where a token has ranges of its own), D width, C channels
that share one, b bits. A byte holds no number in part: 8 numbers of b bits are b bytes.
"""

from typing import NamedTuple

import torch
from torch import Tensor

FP8 = torch.float8_e4m3fn


class Rounded(NamedTuple):
    """Codes, packed along D into uint8 [..., T, D·b/8], with the scale and zero point of each range, as they are kept.

    Scale and zero: [..., 1, D] by channel, [..., T, D/C] by token, in the dtype of what was rounded; fp8 has no zero.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor


def quantize(x_TD: Tensor, bits: int | str, channels: int | None, ignored_T: Tensor | None = None) -> Rounded:
    """Round to the nearest of 2^b evenly spaced numbers from the least to the greatest of each range (KIVI, eq. 1).

        zero = min x,  scale = (max x − min x) / (2^b − 1),  code = ⌊(x − zero) / scale⌉ in 0 … 2^b − 1

    where max x is nearer to 0 than min x, zero is that and scale negative: the same numbers, but where one lies far out
    the others are not what is left of two great ones.
    `channels` says how many neighbours of a token share a range; None: each channel has one over the T tokens, where
    `ignored_T` (bool, broadcasts to [..., T]) counts some tokens out. "fp8": scale = max |x| / 448, and the code is
    x / scale in e4m3. In float32 or wider, by scale and zero as they are kept.
    """
    code, scale, zero = _codes(x_TD, bits, channels, ignored_T)
    code = code.to(FP8).view(torch.uint8) if bits == "fp8" else code.to(torch.uint8)
    if channels is not None:
        code, scale, zero = code.flatten(-2), scale.squeeze(-1), zero.squeeze(-1) if zero.numel() else zero[..., 0, :]
    return Rounded(packed(code, bits), scale, zero)


def rounded(x_TD: Tensor, bits: int | str, channels: int | None) -> Tensor:
    """What `dequantize` makes of what `quantize` makes of it, without the packing."""
    x = _numbers(*_codes(x_TD, bits, channels), bits)
    return (x if channels is None else x.flatten(-2)).to(x_TD.dtype)


def rounded_within(x: Tensor, bits: int | str, low: Tensor, high: Tensor) -> Tensor:
    """Each number to the nearest of those that `quantize` has from `low` to `high`, which broadcast to x."""
    precise = torch.promote_types(x.dtype, torch.float32)
    return _numbers(*_coded(x.to(precise), bits, low.to(precise), high.to(precise), x.dtype), bits).to(x.dtype)


def _numbers(code: Tensor, scale: Tensor, zero: Tensor, bits: int | str) -> Tensor:
    code = code.to(FP8).to(code.dtype) if bits == "fp8" else code
    x = code * scale.to(code.dtype)
    return x + zero.to(code.dtype) if zero.numel() else x


def _codes(
    x_TD: Tensor, bits: int | str, channels: int | None, ignored_T: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(codes, of whole numbers but for fp8, in float32 or wider; scale; zero): `quantize`, by token [..., D/C, C]."""
    precise = torch.promote_types(x_TD.dtype, torch.float32)
    x, dim = x_TD.to(precise), -2
    if channels is not None:
        x, dim = x.unflatten(-1, (-1, channels)), -1
    low, high = x, x
    if ignored_T is not None:
        assert channels is None
        low, high = (x.masked_fill(ignored_T[..., None], limit) for limit in (torch.inf, -torch.inf))
    low, high = low.amin(dim, keepdim=True), high.amax(dim, keepdim=True)
    if ignored_T is not None:  # a group of ignored tokens alone has no range
        low, high = (torch.where(low <= high, limit, 0) for limit in (low, high))
    return _coded(x, bits, low, high, x_TD.dtype)


def _coded(x: Tensor, bits: int | str, low: Tensor, high: Tensor, kept: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """`_codes` of numbers in float32 or wider, with scale and zero as they are kept."""
    if bits == "fp8":
        scale = (torch.maximum(low.abs(), high.abs()) / torch.finfo(FP8).max).to(kept)
        largest = torch.finfo(FP8).max
        code = _divided(x, scale.to(x.dtype)).clamp(-largest, largest)
        zero = scale[..., :0]
    else:
        down = high.abs() < low.abs()
        zero = torch.where(down, high, low).to(kept)
        scale = (torch.where(down, low - high, high - low) / (2**bits - 1)).to(kept)
        code = _divided(x - zero.to(x.dtype), scale.to(x.dtype)).round_().clamp_(0, 2**bits - 1)
    return code, scale, zero


def dequantize(rounded: Rounded, bits: int | str) -> Tensor:
    """code · scale + zero, in the dtype of the scale: [..., T, D]."""
    dtype = rounded.scale.dtype
    precise = torch.promote_types(dtype, torch.float32)
    if bits == "fp8":
        code = rounded.codes.view(FP8).to(precise)
    else:
        code = unpacked(rounded.codes, bits).to(precise)
    ranges = rounded.scale.shape[-1]
    x = code.unflatten(-1, (ranges, -1)) * rounded.scale.to(precise)[..., None]
    if rounded.zero.numel():
        x = x + rounded.zero.to(precise)[..., None]
    return x.flatten(-2).to(dtype)


def packed(code_xD: Tensor, bits: int | str) -> Tensor:
    """uint8 codes below 2^b, [..., D] → uint8 [..., D·b/8]; D is a multiple of 8."""
    if bits in (8, "fp8"):
        return code_xD
    place = torch.arange(8, dtype=torch.int32, device=code_xD.device)
    word = (code_xD.unflatten(-1, (-1, 8)).int() << bits * place).sum(-1, dtype=torch.int32)
    return (word[..., None] >> 8 * place[:bits] & 255).to(torch.uint8).flatten(-2)


def unpacked(bytes_xN: Tensor, bits: int | str) -> Tensor:
    """What `packed` packed."""
    if bits in (8, "fp8"):
        return bytes_xN
    place = torch.arange(8, dtype=torch.int32, device=bytes_xN.device)
    word = (bytes_xN.unflatten(-1, (-1, bits)).int() << 8 * place[:bits]).sum(-1, dtype=torch.int32)
    return (word[..., None] >> bits * place & 2**bits - 1).to(torch.uint8).flatten(-2)


def _divided(x: Tensor, scale: Tensor) -> Tensor:
    """x / scale; where a range is one number alone, 0."""
    return torch.where(scale == 0, 0, x / torch.where(scale == 0, 1, scale))
