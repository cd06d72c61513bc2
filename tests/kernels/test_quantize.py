"""Numbers in few bits, against the formula number by number, and against torch's own float8."""

import math

import pytest
import torch
from rounded import by_channel, by_token

from sinkctl.kernels.rounded_decode.quantize import dequantize, packed, quantize, rounded, unpacked

BITS = (8, 4, 3, 2)


def drawn(*shape, dtype=torch.float64) -> torch.Tensor:
    """With a channel that is far out, as keys have."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[..., 3] += 20
    return x.to(dtype)


@pytest.mark.parametrize("bits", BITS)
def test_what_comes_back_is_the_nearest_evenly_spaced_number(bits):
    x_GTD = drawn(2, 8, 16)
    found = dequantize(quantize(x_GTD, bits, None), bits)
    torch.testing.assert_close(
        found.transpose(0, 1), by_channel(x_GTD.transpose(0, 1), bits, [True] * 8), rtol=0, atol=1e-14
    )
    found = dequantize(quantize(x_GTD, bits, 8), bits)
    for token in range(8):
        torch.testing.assert_close(found[:, token], by_token(x_GTD[:, token], bits, 8), rtol=0, atol=1e-14)


def test_ignored_tokens_stretch_no_range_and_alone_they_have_none():
    x_TD = drawn(8, 16)
    x_TD[:2] *= 100
    ignored = torch.arange(8) < 2
    found = dequantize(quantize(x_TD, 4, None, ignored), 4)
    torch.testing.assert_close(found[2:], dequantize(quantize(x_TD[2:], 4, None), 4), rtol=0, atol=1e-13)
    assert bool(dequantize(quantize(x_TD, 4, None, ignored | True), 4).isfinite().all())


@pytest.mark.parametrize("bits", BITS)
def test_codes_take_so_many_bits_and_no_more(bits):
    code = torch.randint(0, 2**bits, (5, 3, 24), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    held = packed(code, bits)
    assert (held.dtype, held.shape) == (torch.uint8, (5, 3, 3 * bits))
    assert torch.equal(unpacked(held, bits), code)
    as_number = int.from_bytes(bytes(held[0, 0].tolist()), "little")
    assert [as_number >> bits * place & 2**bits - 1 for place in range(24)] == code[0, 0].tolist()


def test_fp8_is_torch_s_e4m3_of_each_range_stretched_to_448():
    x_TD = drawn(8, 16)
    rounded = quantize(x_TD, "fp8", None)
    scale = x_TD.abs().amax(0) / 448
    torch.testing.assert_close(dequantize(rounded, "fp8"), (x_TD / scale).to(torch.float8_e4m3fn).double() * scale)
    assert rounded.zero.numel() == 0
    relative = (dequantize(quantize(x_TD, "fp8", 8), "fp8") / x_TD - 1).abs()
    assert relative.max() <= 2**-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bits", [*BITS, "fp8"])
def test_in_half_precision_a_number_is_off_by_half_a_step_and_its_own_rounding(bits, dtype):
    x_TD = drawn(32, 16, dtype=dtype)
    rounded = quantize(x_TD, bits, None)
    found = dequantize(rounded, bits)
    assert {found.dtype, rounded.scale.dtype, rounded.zero.dtype} == {dtype}
    exact = x_TD.double()
    eps, size = torch.finfo(dtype).eps, exact.abs().amax(0)
    step = size * 2**-3 if bits == "fp8" else (exact.amax(0) - exact.amin(0)) / (2**bits - 1)
    assert bool(((found.double() - exact).abs() <= step / 2 + 2 * eps * size).all())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("bits", [*BITS, "fp8"])
def test_what_comes_back_without_the_packing_is_the_same_to_the_last_bit(bits, dtype):
    x_GTD = drawn(2, 8, 16, dtype=dtype)
    for channels in (None, 8):
        assert torch.equal(rounded(x_GTD, bits, channels), dequantize(quantize(x_GTD, bits, channels), bits))


@pytest.mark.parametrize("bits", [*BITS, "fp8"])
def test_equal_numbers_come_back_as_they_are(bits):
    x_TD = torch.full((8, 16), math.pi)
    torch.testing.assert_close(dequantize(quantize(x_TD, bits, None), bits), x_TD)
    assert torch.equal(dequantize(quantize(0 * x_TD, bits, 8), bits), 0 * x_TD)
