"""How many directions the residual stream uses.

N samples, T tokens, C channels, X the fewer of the two.
"""

import torch
from torch import Tensor

from sinkctl.metrics.means import precise_product
from sinkctl.metrics.views import BlockView, Scope

MOST = 1024  # tokens of a longer sample that are looked at: the spectrum of more takes time with their cube


def rank(view: BlockView, scope: Scope) -> Tensor:
    """Entropy H = −Σ p ln p of p = σ² / Σ σ², effective rank e^H, and the largest p: [N, 3].

    σ are the singular values of the sample's tokens × channels, not centred; NaN where an element is not finite. Of
    samples longer than MOST every second, third, … token is taken.
    """
    return spectrum(gram(view))


def gram(view: BlockView) -> Tensor:
    """Whose eigenvalues the σ² are: [N, X, X]."""
    step = -(-view.h_NTC.shape[1] // MOST)
    h_NTC = view.h_NTC[:, ::step].masked_fill(~view.real_NT[:, ::step, None], 0.0)
    h_NTC = h_NTC.double() if h_NTC.device.type == "cpu" else h_NTC
    few = h_NTC.shape[1] <= h_NTC.shape[2]
    return precise_product(h_NTC, h_NTC.mT) if few else precise_product(h_NTC.mT, h_NTC)


def spectrum(gram_NXX: Tensor) -> Tensor:
    """`rank` from the eigenvalues; of many matrices at once a GPU finds them in less time than one by one."""
    finite_N = gram_NXX.isfinite().all(-1).all(-1)
    share_NX = torch.linalg.eigvalsh(gram_NXX.masked_fill(~finite_N[:, None, None], 0.0)).clamp(min=0)
    share_NX = share_NX / share_NX.sum(-1, keepdim=True)
    entropy_N = -torch.xlogy(share_NX, share_NX).sum(-1)
    return torch.stack([entropy_N, entropy_N.exp(), share_NX.amax(-1)], dim=-1)
