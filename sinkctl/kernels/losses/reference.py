"""The specification of `losses`, in plain torch. N tokens, V vocabulary."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


def losses(logits_NV: Tensor, target_N: Tensor) -> Tensor:
    """log Σ exp(logits) − logit of the target, in nats, [N]; in float32 (of float64 logits in float64)."""
    precise = torch.promote_types(logits_NV.dtype, torch.float32)
    return cross_entropy(logits_NV.to(precise), target_N, reduction="none")
