"""Importance of a key, and whether a head sinks on it.

N samples, H query heads, T tokens.
"""

import torch
from torch import Tensor

from sinkctl.metrics.views import AttentionView, Scope

# A key that fewer queries than this come after, or than a quarter of its sample, is not called a sink: the mean over
# so few queries says little, and that of the last key is its attention to itself.
FOLLOWED, SHARE = 16, 4


def alpha(view: AttentionView, scope: Scope) -> Tensor:
    """α_k = Σ_{t≥k} A_tk / (T − k + 1), k from 1 to T (Gu et al. 2024, arXiv 2410.10781): [N, H, T], NaN past the end.

    A window leaves the denominator alone, as published; in bidirectional attention all T queries could see k.
    """
    return importance(view.sums.received_BHS, view.real_NT, view.visible.causal)


def importance(received_NHT: Tensor, real_NT: Tensor, causal: bool) -> Tensor:
    """The same from what every key received."""
    later_NT = real_NT.sum(-1, keepdim=True).expand_as(real_NT)
    if causal:
        later_NT = later_NT - torch.arange(real_NT.shape[1], device=real_NT.device)
    return (received_NHT / later_NT[:, None]).masked_fill(~real_NT[:, None], torch.nan)


def followed(real_NT: Tensor) -> Tensor:
    """Keys of a causal attention that enough queries come after to be called sinks."""
    length_N1 = real_NT.sum(-1, keepdim=True)
    after_NT = length_N1 - torch.arange(real_NT.shape[1], device=real_NT.device)
    return real_NT & (after_NT >= (length_N1 // SHARE).clamp(min=FOLLOWED))


def sinking(alpha_NHT: Tensor, epsilon: float) -> Tensor:
    """1 where α exceeds ε, 0 where not, NaN where there is no α; its mean is Sink_k^ε."""
    return torch.where(alpha_NHT.isnan(), alpha_NHT, (alpha_NHT > epsilon).to(alpha_NHT.dtype))
