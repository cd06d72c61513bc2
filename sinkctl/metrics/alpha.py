"""Importance of a key, and whether a head sinks on it.

N samples, H query heads, T tokens.
"""

import torch
from torch import Tensor

from sinkctl.metrics.seen import queries_seeing
from sinkctl.metrics.views import AttentionView, Scope

# A key that fewer queries than this come after, or than a quarter of its sample, is not called a sink: the mean over
# so few queries says little, and that of the last key is its attention to itself.
FOLLOWED, SHARE = 16, 4


def alpha(view: AttentionView, scope: Scope) -> Tensor:
    """α_k = Σ_{t≥k} A_tk / (T − k + 1), k from 1 to T (Gu et al. 2024, arXiv 2410.10781): [N, H, T], NaN past the end.

    A window leaves the denominator alone, as published; in bidirectional attention all T queries could see k. Where the
    model's own mask lets some queries see what is to come (those of an image its other tokens), it is the number of
    queries that see k.
    """
    if mixed(view):
        return (view.sums.received_BHS / queries_seeing(view)[:, None]).masked_fill(~view.real_NT[:, None], torch.nan)
    return importance(view.sums.received_BHS, view.real_NT, view.visible.causal)


def mixed(view: AttentionView) -> bool:
    """Whether some queries see both ways, and others only back."""
    return not view.visible.causal and view.visible.also is not None


def countable(view: AttentionView) -> Tensor:
    """The keys that enough queries see to be called sinks: bool [N, T]."""
    if mixed(view):
        return view.real_NT & (queries_seeing(view) >= _enough(view.real_NT))
    return followed(view.real_NT) if view.visible.causal else view.real_NT


def importance(received_NHT: Tensor, real_NT: Tensor, causal: bool) -> Tensor:
    """The same from what every key received."""
    later_NT = real_NT.sum(-1, keepdim=True).expand_as(real_NT)
    if causal:
        later_NT = later_NT - torch.arange(real_NT.shape[1], device=real_NT.device)
    return (received_NHT / later_NT[:, None]).masked_fill(~real_NT[:, None], torch.nan)


def followed(real_NT: Tensor) -> Tensor:
    """Keys of a causal attention that enough queries come after to be called sinks."""
    after_NT = real_NT.sum(-1, keepdim=True) - torch.arange(real_NT.shape[1], device=real_NT.device)
    return real_NT & (after_NT >= _enough(real_NT))


def _enough(real_NT: Tensor) -> Tensor:
    return (real_NT.sum(-1, keepdim=True) // SHARE).clamp(min=FOLLOWED)


def sinking(alpha_NHT: Tensor, epsilon: float) -> Tensor:
    """1 where α exceeds ε, 0 where not, NaN where there is no α; its mean is Sink_k^ε."""
    return torch.where(alpha_NHT.isnan(), alpha_NHT, (alpha_NHT > epsilon).to(alpha_NHT.dtype))
