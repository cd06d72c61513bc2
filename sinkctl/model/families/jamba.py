"""Jamba (Lieber et al. 2024, arXiv 2403.19887): Mamba layers between the softmax ones."""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from sinkctl.model.families.base import Family
from sinkctl.model.undocumented import cache_given

# Tokens whose decays, [B, T, D, N], exist at once; the stock scan holds them for the whole block.
SLICE = 128


class Jamba(Family):
    """Lets the stock scan of a block start from the carried state; by itself it starts every block from zero.

    The scan h_t = A_t h_{t−1} + B_t x_t, y_t = C_t h_t is linear in its state, and so is the gate after it: what was
    carried, h_0, adds C_t (A_t ⋯ A_1) h_0 silu(z_t) to the output and (A_T ⋯ A_1) h_0 to the last state.

    Shapes: B batch, T tokens, D channels, N states a channel, R rank of the step.
    """

    modules = ("JambaMambaMixer",)

    @staticmethod
    def forward(module: nn.Module, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        cache = cache_given(module, (hidden_states, *args), kwargs)
        layer = None if cache is None else cache.layers[module.layer_idx]
        stock = type(module).forward
        if layer is None or not layer.has_previous_state[0] or hidden_states.shape[1] == 1:  # one token continues
            return stock(module, hidden_states, *args, **kwargs)
        state_BDN, seen = layer.recurrent_states[0].clone(), {}

        def see(part: nn.Module, _, out: Tensor) -> None:
            seen[part] = out

        def add(_, inputs: tuple[Tensor]) -> tuple[Tensor]:
            gate_BTD = seen[module.in_proj].chunk(2, dim=-1)[1]
            out_BTD, seen["state"] = _carried(module, state_BDN, seen[module.dt_layernorm], seen[module.c_layernorm])
            return (inputs[0] + (out_BTD * silu(gate_BTD)).to(inputs[0].dtype),)

        with ExitStack() as hooks:
            for part in (module.in_proj, module.dt_layernorm, module.c_layernorm):
                hooks.enter_context(part.register_forward_hook(see))
            hooks.enter_context(module.out_proj.register_forward_pre_hook(add))
            out = stock(module, hidden_states, *args, **kwargs)
        layer.recurrent_states[0].add_(seen["state"])
        return out


def _carried(module: nn.Module, state_BDN: Tensor, step_BTR: Tensor, c_BTN: Tensor) -> tuple[Tensor, Tensor]:
    """What the carried state adds to the output of every token, [B, T, D], and to the last state, [B, D, N]."""
    rate_DN = -module.A_log.float().exp()
    step_BTD = softplus(module.dt_proj(step_BTR))
    elapsed_BTD = step_BTD.to(torch.promote_types(step_BTD.dtype, torch.float32)).cumsum(1)
    out = []
    for first in range(0, elapsed_BTD.shape[1], SLICE):
        part = slice(first, first + SLICE)
        left_BTDN = (elapsed_BTD[:, part, :, None] * rate_DN).exp_().mul_(state_BDN[:, None])
        out.append((left_BTDN @ c_BTN[:, part, :, None].to(left_BTDN.dtype))[..., 0])
    return torch.cat(out, dim=1), left_BTDN[:, -1]
