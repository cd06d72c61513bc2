"""The specification of `gated`, in plain torch. T tokens, I inner channels."""

import torch
from torch import Tensor
from torch.nn.functional import silu


def gated(gate_TI: Tensor, up_TI: Tensor) -> Tensor:
    """silu(gate) · up, in float32 or wider, rounded once; written over `gate_TI`."""
    precise = torch.promote_types(gate_TI.dtype, torch.float32)
    return gate_TI.copy_(silu(gate_TI.to(precise)) * up_TI.to(precise))
