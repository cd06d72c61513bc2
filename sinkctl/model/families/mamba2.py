"""Mamba-2 layers (Dao and Gu 2024, arXiv 2405.21060) that bound their time step: Nemotron-H, Zamba2."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from sinkctl.model.families.base import Family


class BoundedMamba2(Family):
    """Bounds the time step of a token that comes by itself, as the stock class does only for several tokens at once."""

    modules = ("NemotronHMamba2Mixer", "Zamba2MambaMixer")

    @staticmethod
    def forward(module: nn.Module, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if hidden_states.shape[1] > 1:
            return type(module).forward(module, hidden_states, *args, **kwargs)

        def bound(_, __, projected: Tensor) -> Tensor:
            *others, dt = projected.split([projected.shape[-1] - module.num_heads, module.num_heads], dim=-1)
            step = softplus(dt + module.dt_bias)
            bounded = step.clamp(*module.time_step_limit)
            raw = bounded + torch.log(-torch.expm1(-bounded)) - module.dt_bias  # what softplus takes to `bounded`
            return torch.cat([*others, torch.where(step == bounded, dt, raw.to(dt.dtype))], dim=-1)

        with module.in_proj.register_forward_hook(bound):
            return type(module).forward(module, hidden_states, *args, **kwargs)
