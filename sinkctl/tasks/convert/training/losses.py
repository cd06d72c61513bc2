"""What training makes small.

Shapes: B batch, T tokens, V vocabulary, N tokens of a body, n predictions that two packings share.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sinkctl.recipe.training import LossSettings
from sinkctl.tasks.convert.training.packing import NO_TARGET, Packed


class Parts(NamedTuple):
    """Sums over predicted tokens, in nats."""

    lm: Tensor
    objective: Tensor


def parts(
    weights: LossSettings, logits_BTV: Tensor, target_BT: Tensor, divergence: Tensor | None, first: list[Tensor],
    massive: Sequence[Tensor] = (),
) -> Parts:  # fmt: skip
    """The losses of some sequences, in nats, summed over their predicted tokens.

    `first` and `massive`, a number a layer, count for every predicted token alike.
    """
    with nullcontext() if weights.lm else torch.no_grad():
        flat_nV = logits_BTV.flatten(0, 1).float()
        lm = cross_entropy(flat_nV, target_BT.flatten(), ignore_index=NO_TARGET, reduction="sum")
    objective = weights.lm * lm
    if divergence is not None:
        objective = objective + weights.kl * divergence
    for weight, layers in ((weights.first, first), (weights.massive, massive)):
        if weight:
            objective = objective + weight * torch.stack(list(layers)).mean() * (target_BT != NO_TARGET).sum()
    return Parts(lm.detach(), objective)


def divergence(ours_BTV: Tensor, packed: Packed, original_BTV: Tensor, theirs: Packed, vocabulary: int) -> Tensor:
    """Σ KL(original ‖ ours) over the body tokens that both packings predict; the first `vocabulary` rows count."""
    place_BN, their_place_BN = packed.place_BN.to(ours_BTV.device), theirs.place_BN.to(ours_BTV.device)
    both = ((place_BN >= 0) & (their_place_BN >= 0)).nonzero(as_tuple=True)
    log_nV = ours_BTV[both[0], place_BN[both]][:, :vocabulary].float().log_softmax(-1)
    true_nV = original_BTV[both[0], their_place_BN[both]][:, :vocabulary].float().log_softmax(-1)
    return (true_nV.exp() * (true_nV - log_nV)).sum()
