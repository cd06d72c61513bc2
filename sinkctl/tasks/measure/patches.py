"""Norms of the tokens of a vision model: patches, registers and [CLS] apart."""

import torch
from torch import Tensor

from sinkctl.result.measure import PatchNorms

BINS = 40


def patch_norms(norm_NT: Tensor, leading: list[str], threshold: float) -> PatchNorms | None:
    """Norms after the last block, [N, T] (Darcet et al. 2023, arXiv 2309.16588): which patches are outliers.

    `leading` names the tokens in front of the patches. Norms that are not finite are left out; None if all are such.
    """
    norm_NT = norm_NT.double().masked_fill(~norm_NT.isfinite(), torch.nan)
    mean_T = norm_NT.nanmean(0).tolist()
    patch_X = norm_NT[:, len(leading) :].flatten()
    patch_X = patch_X[patch_X.isfinite()]
    if not len(patch_X):
        return None
    counts, edges = torch.histogram(patch_X.cpu(), BINS)
    ends = edges.tolist()
    return PatchNorms(
        cls=next((mean for name, mean in zip(leading, mean_T, strict=False) if name == "[CLS]"), None),
        registers=[mean for name, mean in zip(leading, mean_T, strict=False) if name.startswith("[REG")],
        patch_median=float(patch_X.median()),
        patch_max=float(patch_X.max()),
        outlier_percent=100 * float((patch_X > threshold).double().mean()),
        threshold=threshold,
        bins=[(low, high, int(count)) for low, high, count in zip(ends, ends[1:], counts.tolist(), strict=False)],
    )
