"""The specification of `gated`, in plain torch. T tokens, F inner channels."""

import torch
from torch import Tensor
from torch.nn.functional import silu


def gated(gate_TF: Tensor, up_TF: Tensor) -> Tensor:
    """silu(gate) · up, in float32 or wider, rounded once; written over `gate_TF`."""
    precise = torch.promote_types(gate_TF.dtype, torch.float32)
    return gate_TF.copy_(silu(gate_TF.to(precise)) * up_TF.to(precise))
