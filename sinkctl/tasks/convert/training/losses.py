"""What training makes small.

Shapes: B batch, T tokens, V vocabulary, N tokens of a body, n predictions that two packings share.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy

from sinkctl.kernels.fused import fused
from sinkctl.recipe.training import LossSettings
from sinkctl.tasks.convert.training.packing import NO_TARGET, Packed

NUMBERS = 1 << 24  # logits that are compared at once


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
    both = ((packed.place_BN >= 0) & (theirs.place_BN >= 0)).nonzero(as_tuple=True)
    own_n, their_n = (
        (both[0] * logits.shape[1] + each.place_BN[both]).to(logits.device, non_blocking=True)
        for logits, each in ((ours_BTV, packed), (original_BTV, theirs))
    )
    return _Divergence.apply(ours_BTV, own_n, original_BTV, their_n, vocabulary)


class _Divergence(Function):
    """A few predictions at a time: their gradient, softmax(ours) − softmax(original), is at hand with the sum, and no
    more than one tensor as large as the logits is held until the backward pass."""

    @staticmethod
    def forward(ctx, ours_BTV: Tensor, own_n: Tensor, original_BTV: Tensor, their_n: Tensor, vocabulary: int) -> Tensor:
        ours_nV, original_nV = ours_BTV.flatten(0, 1), original_BTV.flatten(0, 1)
        precise = torch.promote_types(ours_BTV.dtype, torch.float32)
        total, gradient_nV = ours_nV.new_zeros((), dtype=precise), torch.zeros_like(ours_nV)
        at_once, between = max(1, NUMBERS // vocabulary), fused(_between, ours_nV.device)
        for own, their in zip(own_n.split(at_once), their_n.split(at_once), strict=True):
            apart, gradient = between(ours_nV[own, :vocabulary], original_nV[their, :vocabulary], precise)
            total += apart
            gradient_nV[own, :vocabulary] = gradient
        ctx.save_for_backward(gradient_nV.view_as(ours_BTV))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient_BTV,) = ctx.saved_tensors
        return (gradient_BTV * gradient).to(gradient_BTV.dtype), None, None, None, None


def _between(ours_nV: Tensor, original_nV: Tensor, precise: torch.dtype) -> tuple[Tensor, Tensor]:
    """(Σ KL(original ‖ ours), its gradient for our logits)."""
    log_nV, true_log_nV = (logits_nV.to(precise).log_softmax(-1) for logits_nV in (ours_nV, original_nV))
    true_nV = true_log_nV.exp()
    return (true_nV * (true_log_nV - log_nV)).sum(), (log_nV.exp() - true_nV).to(ours_nV.dtype)
