"""`massive` and `outliers` for half precision: a program a token, what tokens found added up by plain torch.

No float32 copy of the residual stream is made, and no element is sorted: the median's bits are found four at a time, by
counting what lies below sixteen numbers, as half floats ≥ 0 are ordered like their bits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sinkctl.kernels.activations.reference import together

PARTS = tl.constexpr(16)  # thresholds at a time
STEPS = (1 << 11, 1 << 7, 1 << 3, 1)  # between them: 15 bits in four rounds


@triton.jit
def _token(h, hn, ht, C: tl.constexpr, PC: tl.constexpr):
    """(a token's elements in float32, which channels there are, where in a result the token stands)"""
    n, t, c = tl.program_id(1).to(tl.int64), tl.program_id(0).to(tl.int64), tl.arange(0, PC)
    return tl.load(h + n * hn + t * ht + c, c < C, 0.0).to(tl.float32), c < C, n * tl.num_programs(0) + t


@triton.jit
def _largest(h, top, channel, broken, hn, ht, C: tl.constexpr, PC: tl.constexpr):
    """The three largest of the finite |h|, −1 where there is none."""
    x, inside, row = _token(h, hn, ht, C, PC)
    finite = tl.abs(x) < float("inf")
    size, c = tl.where(finite & inside, tl.abs(x), -1.0), tl.arange(0, PC)
    tl.store(broken + row, tl.sum((inside & (finite == 0)).to(tl.int32), 0))
    for place in tl.static_range(3):
        most, at = tl.max(size, 0, return_indices=True)
        tl.store(top + row * 3 + place, most)
        tl.store(channel + row * 3 + place, at)
        size = tl.where(c == at, -1.0, size)


@triton.jit
def _below(h, limits, counts, hn, ht, C: tl.constexpr, BC: tl.constexpr, PARTS: tl.constexpr):
    """How many elements have bits at most as great as each limit, the sign left out."""
    n, t, part, c = tl.program_id(1).to(tl.int64), tl.program_id(0).to(tl.int64), tl.arange(0, PARTS), tl.arange(0, BC)
    limit, found = tl.load(limits + n * PARTS + part), tl.zeros([BC, PARTS], tl.int32)
    for start in range(0, C, BC):
        inside = start + c < C
        bits = tl.load(h + n * hn + t * ht + start + c, inside, 0.0).to(tl.int16, bitcast=True).to(tl.int32) & 0x7FFF
        found += (tl.where(inside, bits, 0x8000)[:, None] <= limit[None, :]).to(tl.int32)
    tl.store(counts + (n * tl.num_programs(0) + t) * PARTS + part, tl.sum(found, 0))


@triton.jit
def _massive(h, median, count, hn, ht, size, ratio, C: tl.constexpr, PC: tl.constexpr):
    x, inside, row = _token(h, hn, ht, C, PC)
    x = tl.abs(x)
    found = inside & (x > size) & (x >= ratio * tl.load(median + tl.program_id(1))) & (x < float("inf"))
    tl.store(count + row, tl.sum(found.to(tl.int32), 0))


@triton.jit
def _total(h, total, most, hn, ht, C: tl.constexpr, PC: tl.constexpr):
    x, _, row = _token(h, hn, ht, C, PC)
    tl.store(total + row, tl.sum(x, 0))
    tl.store(most + row, tl.max(tl.abs(x), 0))


@triton.jit
def _moments(h, mean, square, fourth, hn, ht, C: tl.constexpr, PC: tl.constexpr):
    x, inside, row = _token(h, hn, ht, C, PC)
    x = tl.where(inside, x - tl.load(mean + tl.program_id(1)), 0.0)
    tl.store(square + row, tl.sum(x * x, 0))
    tl.store(fourth + row, tl.sum(x * x * (x * x), 0))


@triton.jit
def _far(h, mean, limit, count, hn, ht, C: tl.constexpr, PC: tl.constexpr):
    x, inside, row = _token(h, hn, ht, C, PC)
    x = x - tl.load(mean + tl.program_id(1))
    tl.store(count + row, tl.sum((inside & (x * x > tl.load(limit + tl.program_id(1)))).to(tl.int32), 0))


def massive(h_NTC: Tensor, real_NT: Tensor, size: float, ratio: float) -> Tensor:
    """As `reference.massive`; equal to it, but for which of equal elements is called the largest."""
    (N, T, C), real_NT1 = h_NTC.shape, real_NT[..., None]
    top_NT3, channel_NT3 = (h_NTC.new_empty(N, T, 3, dtype=dtype) for dtype in (torch.float32, torch.int32))
    broken_NT, massive_NT = channel_NT3.new_empty(2, N, T)
    _by_token(_largest, h_NTC, top_NT3, channel_NT3, broken_NT)
    broken_N = torch.where(real_NT, broken_NT, 0).sum(-1)
    top_N3, place_N3 = torch.where(real_NT1, top_NT3, -1.0).flatten(1).topk(3)
    median_N = _median(h_NTC, real_NT, real_NT.sum(-1) * C - broken_N)
    _by_token(_massive, h_NTC, median_N, massive_NT, after=(size, ratio))
    massive_N = torch.where(real_NT, massive_NT, 0).sum(-1)
    channel_N = channel_NT3.flatten(1).gather(1, place_N3[:, :1])[:, 0]
    return together(top_N3, median_N, massive_N, place_N3[:, 0] // 3, channel_N, broken_N)


def outliers(h_NTC: Tensor, real_NT: Tensor, deviations: float) -> Tensor:
    """As `reference.outliers`; the largest |h| of a sample that has elements not finite is not finite."""
    N, T, C = h_NTC.shape
    total_NT, most_NT, square_NT, fourth_NT = h_NTC.new_empty(4, N, T, dtype=torch.float32)
    far_NT, elements_N = h_NTC.new_empty(N, T, dtype=torch.int32), real_NT.sum(-1) * C
    _by_token(_total, h_NTC, total_NT, most_NT)
    total_N = torch.where(real_NT, total_NT, 0.0).sum(-1)
    mean_N = total_N / elements_N
    _by_token(_moments, h_NTC, mean_N, square_NT, fourth_NT)
    square_N, fourth_N = (torch.where(real_NT, x_NT, 0.0).sum(-1) for x_NT in (square_NT, fourth_NT))
    variance_N = square_N / (elements_N - 1)
    _by_token(_far, h_NTC, mean_N, deviations**2 * variance_N, far_NT)
    far_N = torch.where(real_NT, far_NT, 0).sum(-1)
    most_N = torch.where(real_NT, most_NT, 0.0).amax(-1) + 0 * total_N
    return torch.stack([most_N, fourth_N / elements_N / (variance_N.square() + 1e-6), far_N / elements_N], dim=-1)


def _by_token(kernel, h_NTC: Tensor, *tensors: Tensor, after: tuple[float, ...] = ()) -> None:
    (N, T, C), PC = h_NTC.shape, triton.next_power_of_2(h_NTC.shape[-1])
    assert h_NTC.stride(-1) == 1
    with torch.cuda.device_of(h_NTC):  # Triton launches on the current device
        kernel[(T, N)](
            h_NTC, *tensors, *h_NTC.stride()[:2], *after, C=C, PC=PC, num_warps=4 if PC <= 4096 else 8
        )  # fmt: skip


def _median(h_NTC: Tensor, real_NT: Tensor, counted_N: Tensor) -> Tensor:
    """The lower median of the finite |h| of the real tokens, float32, NaN where there is none."""
    (N, T, C), parts = h_NTC.shape, PARTS.value
    low_N1 = torch.zeros(N, 1, dtype=torch.int32, device=h_NTC.device)
    counts_NTP, part_P = low_N1.new_empty(N, T, parts), torch.arange(1, parts + 1, device=h_NTC.device)
    for step in STEPS:
        limits_NP = (low_N1 + step * part_P - 1).int()
        with torch.cuda.device_of(h_NTC):
            _below[(T, N)](h_NTC, limits_NP, counts_NTP, *h_NTC.stride()[:2], C=C, BC=128, PARTS=parts)
        below_NP = torch.where(real_NT[..., None], counts_NTP, 0).sum(1)
        low_N1 = low_N1 + step * (2 * below_NP < counted_N[:, None]).sum(-1, keepdim=True)
    return low_N1[:, 0].to(torch.int16).view(h_NTC.dtype).float().masked_fill(counted_N == 0, torch.nan)
