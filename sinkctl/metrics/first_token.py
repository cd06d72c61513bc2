"""What a layer's queries take from the first token, and what they would give without it: what a designed sink replaces.

Shapes: H query heads, G key/value heads, N queries, n of them, S keys, D key width, E value width, C hidden width.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

SUMMED = 1024  # queries a product


class ScoreRows(NamedTuple):
    """Whole rows of scores, for what is no softmax: queries `first … first+n−1` of the record, one sample's."""

    first: int
    score_HnS: Tensor  # −inf where a key is hidden; the first token is not among the keys
    v_GSE: Tensor


class Folded(NamedTuple):
    """The same queries before keys that lack k*, of a softmax with one more outcome.

    softmax over [q·(k − k*), s] is softmax over [q·k, s + q·k*]: a constant on the keys makes the logit s depend on the
    query, as a key of its own would. A constant before the rotation is turned with its key, so k* has only the pairs
    that turn by less than a radian over all its layer reads. Σ p (v − v*) + v* is Σ p v + (1 − Σ p) v*, whatever p.
    """

    key_GD: Tensor  # k*: of the first token's key, what lies in slow pairs
    lse_HN: Tensor
    out_HNE: Tensor


@dataclass(frozen=True)
class FirstToken:
    """One layer under the published rule with one sink, the first token; float32, over queries with a full cache.

    Its key faces the un-rotated query: turned back by the distance at which a full cache presents it.
    """

    key_GD: Tensor  # means over samples
    value_GE: Tensor
    key_spread: float  # root mean square deviation from the mean over samples, relative; 0: the same in every text
    value_spread: float
    score_HN: Tensor  # its score
    lse_HN: Tensor  # log-sum-exp of the scores of the other keys
    out_HNE: Tensor  # attention over the other keys alone
    x_NC: Tensor | None = None  # what the layer's projections take
    rows: list[ScoreRows] = field(default_factory=list)
    folded: Folded | None = None

    @property
    def mass_HN(self) -> Tensor:
        """What the first token takes of each query."""
        return torch.sigmoid(self.score_HN - self.lse_HN)

    @property
    def values_HE(self) -> Tensor:
        """Its value, by query head."""
        return self.value_GE.repeat_interleave(len(self.score_HN) // len(self.value_GE), dim=0)

    def written_HNE(self) -> Tensor:
        """The layer's output as it was, first token included."""
        mass_HN1 = self.mass_HN[..., None]
        return (1 - mass_HN1) * self.out_HNE + mass_HN1 * self.values_HE[:, None]


def constant_part(seen: FirstToken, kept_HN: Tensor) -> Tensor:
    """The constant that, added to kept·out, comes nearest to the layer's output as it was: [H, E]."""
    mass_HN = seen.mass_HN
    return _mean(1 - mass_HN - kept_HN, seen.out_HNE) + mass_HN.mean(1)[:, None] * seen.values_HE


def folded_start(seen: FirstToken, kept_HN: Tensor) -> dict[str, Tensor]:
    """What keys and values lose, `lost_key` [G, D] and `lost_value` [G, E], and outputs gain: `bias` [H, E]."""
    mass_HN = seen.mass_HN
    bias_HE = _mean(1 - mass_HN, seen.out_HNE) - _mean(kept_HN, seen.folded.out_HNE)
    bias_HE = bias_HE + (mass_HN + kept_HN).mean(1)[:, None] * seen.values_HE
    return {"lost_key": seen.folded.key_GD, "lost_value": seen.value_GE, "bias": bias_HE}


def _mean(weight_HN: Tensor, out_HNE: Tensor) -> Tensor:
    """Of weight·out over N, [H, E], by products, so that nothing as large as the outputs is made; summed in float64."""
    pairs = zip(weight_HN.split(SUMMED, 1), out_HNE.split(SUMMED, 1), strict=True)
    total_HE = sum((weight_Hn[:, None] @ out_HnE)[:, 0].double() for weight_Hn, out_HnE in pairs)
    return (total_HE / weight_HN.shape[1]).to(out_HNE.dtype)


def matched(mean_H, target_H: Tensor, low: float, high: float, steps: int = 36) -> Tensor:
    """Per head the number in low … high at which `mean_H`, increasing, meets the target; bisection."""
    low_H, high_H = torch.full_like(target_H, low), torch.full_like(target_H, high)
    for _ in range(steps):
        middle_H = (low_H + high_H) / 2
        short_H = mean_H(middle_H) < target_H
        low_H, high_H = torch.where(short_H, middle_H, low_H), torch.where(short_H, high_H, middle_H)
    return (low_H + high_H) / 2
