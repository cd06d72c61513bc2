"""Attention weights from scores by something else than a plain softmax.

Needs torch alone: sinkctl copies this file into the checkpoints it writes.

Shapes: B batch, H query heads, T queries, S keys. `seen` is False where a key is hidden; weights there are whatever.
"""

import torch
from torch import Tensor, nn


def softpick(score_BHTS: Tensor, seen: Tensor) -> Tensor:
    """relu(e^s − 1) / Σ |e^s − 1| (Zuhri et al. 2025, arXiv 2504.20966), all over e^max so that nothing overflows."""
    top_BHT1 = score_BHTS.masked_fill(~seen, 0.0).amax(-1, keepdim=True).clamp(min=0)
    excess_BHTS = ((score_BHTS - top_BHT1).exp() - (-top_BHT1).exp()).masked_fill(~seen, 0.0)
    return excess_BHTS.relu() / (excess_BHTS.abs().sum(-1, keepdim=True) + 1e-8 * (-top_BHT1).exp())


# Not normalised, so that no key needs to take what others leave (Gu et al. 2024, arXiv 2410.10781; Softpick).
WEIGHTS = {
    "sigmoid": lambda score_BHTS, seen: score_BHTS.sigmoid(),
    "elu": lambda score_BHTS, seen: nn.functional.elu(score_BHTS) + 1,
    "softpick": softpick,
}
# The logarithms of weights that are then divided by their sum, as all may be too small to add.
LOGARITHMS = {
    "sigmoid": nn.functional.logsigmoid,
    "elu": lambda score_BHTS: torch.where(score_BHTS < 0, score_BHTS, score_BHTS.clamp(min=0).log1p()),
    "sigsoftmax": lambda score_BHTS: score_BHTS + nn.functional.logsigmoid(score_BHTS),
}


def over_their_sum(kind: str, score_BHTS: Tensor, seen: Tensor) -> Tensor:
    """Weights of that kind, normalised."""
    return LOGARITHMS[kind](score_BHTS).masked_fill(~seen, torch.finfo(score_BHTS.dtype).min).softmax(-1)


def scaled_softmax(score_BHTS: Tensor, seen: Tensor, alpha: float, power: float) -> Tensor:
    """α e^s / (Σ e^(p s))^(1/p)."""
    score_BHTS = score_BHTS.masked_fill(~seen, torch.finfo(score_BHTS.dtype).min / max(1.0, power))
    return alpha * (score_BHTS - (power * score_BHTS).logsumexp(-1, keepdim=True) / power).exp()


def kernel(product_BHTS: Tensor, seen: Tensor, normalise: bool) -> Tensor:
    """φ(q)·φ(k), or that over max(|Σ φ(q)·φ(k)|, 1)."""
    if not normalise:
        return product_BHTS
    return product_BHTS / product_BHTS.masked_fill(~seen, 0.0).sum(-1, keepdim=True).abs().clamp(min=1)


def positive_kernel(product_BHTS: Tensor, seen: Tensor, normalise: bool) -> Tensor:
    """The same of products that are not negative, over their sum."""
    if not normalise:
        return product_BHTS
    low = torch.finfo(product_BHTS.dtype).tiny
    return product_BHTS / product_BHTS.masked_fill(~seen, 0.0).sum(-1, keepdim=True).clamp(min=low)


def fallen(score_BHTS: Tensor, seen: Tensor) -> Tensor:
    """Scores less 2^(−8h/H) a key that a query sees behind this one (ALiBi)."""
    heads = score_BHTS.shape[1]
    number_H = torch.arange(1, heads + 1, device=score_BHTS.device, dtype=score_BHTS.dtype)
    slope_H11 = (2 ** (-8 * number_H / heads))[:, None, None]
    seen_BHTS = seen.to(score_BHTS.dtype)
    behind_BHTS = seen_BHTS.flip(-1).cumsum(-1).flip(-1) - seen_BHTS
    return score_BHTS - slope_H11 * behind_BHTS
