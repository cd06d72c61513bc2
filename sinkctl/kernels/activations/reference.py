"""The specification, in plain torch; the choice where no kernel runs.

N samples, T tokens, C channels, X all elements of a sample.
"""

import numpy as np
import torch
from torch import Tensor


def massive(h_NTC: Tensor, real_NT: Tensor, size: float, ratio: float) -> Tensor:
    """Top-1, top-2, top-3 and median |h|; massive elements; token and channel of top-1; not-finite elements: [N, 8].

    Of the real tokens. Massive: |h| > size and |h| ≥ ratio · median. Elements not finite are left out of all but their
    count. The median is the lower of two. In float32, or float64 if it is already.
    """
    size_NTC, real_NT1 = h_NTC.abs(), real_NT[..., None]
    finite_NTC = size_NTC.isfinite()
    size_NX = size_NTC.masked_fill(~(finite_NTC & real_NT1), torch.nan).flatten(1)
    median_N, size_NX = precise(lower_median(size_NX)), precise(size_NX)
    top_N3, place_N3 = size_NX.nan_to_num(nan=-1.0).topk(3)
    massive_N = is_massive(size_NX, median_N[:, None], size, ratio).sum(-1)
    broken_N = (~finite_NTC & real_NT1).sum((1, 2))
    C = size_NTC.shape[-1]
    return together(top_N3, median_N, massive_N, place_N3[:, 0] // C, place_N3[:, 0] % C, broken_N)


def together(
    top_N3: Tensor, median_N: Tensor, massive_N: Tensor, token_N: Tensor, channel_N: Tensor, broken_N: Tensor
) -> Tensor:
    """[N, 8]; NaN where there is no such element, which `top_N3` says by a number below 0."""
    top_N3 = top_N3.masked_fill(top_N3 < 0, torch.nan)
    where_N2 = torch.stack([token_N, channel_N], dim=-1).to(top_N3.dtype).masked_fill(top_N3[:, :1].isnan(), torch.nan)
    counts_N = [x.to(top_N3.dtype)[:, None] for x in (massive_N, broken_N)]
    return torch.cat([top_N3, median_N[:, None], counts_N[0], where_N2, counts_N[1]], dim=-1)


def outliers(h_NTC: Tensor, real_NT: Tensor, deviations: float) -> Tensor:
    """max |h|; kurtosis, mean (h − µ)⁴ / (σ⁴ + 1e-6); share of elements further than so many σ from µ: [N, 3].

    µ and σ over all elements of the real tokens, σ unbiased, 3 not subtracted.
    """
    real_NT1, h_NTC = real_NT[..., None], precise(h_NTC)
    h_NTC = h_NTC.masked_fill(~real_NT1, 0.0)
    elements_N = real_NT.sum(-1) * h_NTC.shape[-1]
    mean_N11 = (h_NTC.sum((1, 2)) / elements_N)[:, None, None]
    square_NTC = (h_NTC - mean_N11).square().masked_fill(~real_NT1, 0.0)
    variance_N = square_NTC.sum((1, 2)) / (elements_N - 1)
    kurtosis_N = square_NTC.square().sum((1, 2)) / elements_N / (variance_N.square() + 1e-6)
    far_NTC = square_NTC > deviations**2 * variance_N[:, None, None]
    return torch.stack([h_NTC.abs().amax((1, 2)), kurtosis_N, far_NTC.sum((1, 2)) / elements_N], dim=-1)


def is_massive(absolute: Tensor, median: Tensor, size: float, ratio: float) -> Tensor:
    return (absolute > size) & (absolute >= ratio * median)


def precise(x: Tensor) -> Tensor:
    """In float32, or float64 if it is already."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def lower_median(size_NX: Tensor) -> Tensor:
    """Median of the numbers ≥ 0 of each row that are not NaN, the lower of two: [N], NaN where there is none.

    On a CPU NumPy finds it, in an eighth of the time that `nanmedian` takes. On a GPU it is found bit by bit, as floats
    ≥ 0 are ordered like their bits: `nanmedian` gives a long row to one multiprocessor.
    """
    if size_NX.device.type == "cpu":
        found = [_lower_median(row_X) for row_X in precise(size_NX).numpy()]
        return torch.tensor(found, dtype=size_NX.dtype)
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[size_NX.element_size()]
    counted_N = (~size_NX.isnan()).sum(-1)
    bits_NX = size_NX.nan_to_num(nan=torch.inf).view(whole)
    low_N = torch.zeros_like(counted_N, dtype=whole)
    high_N = low_N + torch.tensor(torch.inf, dtype=size_NX.dtype).view(whole).item()
    for _ in range(torch.iinfo(whole).bits - 1):
        middle_N = low_N + (high_N - low_N) // 2
        enough_N = 2 * (bits_NX <= middle_N[:, None]).sum(-1) >= counted_N
        low_N, high_N = torch.where(enough_N, low_N, middle_N + 1), torch.where(enough_N, middle_N, high_N)
    return low_N.view(size_NX.dtype).masked_fill(counted_N == 0, torch.nan)


def _lower_median(row_X: np.ndarray) -> float:
    place = max(0, np.count_nonzero(~np.isnan(row_X)) - 1) // 2  # NaN are sorted to the end
    return float(np.partition(row_X, place)[place])
