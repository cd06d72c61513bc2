"""Decoder layers over a block of tokens: products by torch, sums in their epilogues, little else over memory.

The layers of transformers, compiled or not, turn queries and keys by position 0, write what a product adds to the
residual stream before they add it, and, not compiled, write the gate three times. Here nothing is compiled but kernels
that any shape shares. B rows, T tokens, C channels, D width of a head.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, rms_norm
from transformers import PreTrainedModel

from sinkctl.kernels import gate
from sinkctl.kernels.implementation import Implementation
from sinkctl.model.attention import through_handler
from sinkctl.model.compiled import called_as
from sinkctl.model.handler import handling
from sinkctl.model.row_layers import misfit


class BlockLayers:
    """Runs layers so inside `with active()`, without gradients; each writes over the residual stream it is given."""

    def __init__(self, blocks: Sequence[nn.Module], gated: Implementation):
        """`blocks` of which `misfit` says nothing."""
        self._blocks = blocks
        self._calls = [_Layer(block, gated) for block in blocks]

    @contextmanager
    def active(self) -> Iterator[None]:
        with called_as(self._blocks, self._calls):
            yield


class _Layer:
    """One layer, called as it is."""

    def __init__(self, block: nn.Module, gated: Implementation):
        self._block, self._gated = block, gated

    def __call__(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **_: Any) -> Tensor:
        """[B, T, C] → the same memory; queries and keys stay as at position 0, where rotation is the identity."""
        attention, mlp, h_NC = self._block.self_attn, self._block.mlp, hidden_states.flatten(0, 1)
        rows, tokens, _ = hidden_states.shape
        x_NC = _normed(self._block.input_layernorm, h_NC)
        room = handling.get().room(attention, tokens) if rows == 1 else None
        found = (
            linear(x_NC, attention.q_proj.weight, attention.q_proj.bias),
            linear(x_NC, attention.k_proj.weight, attention.k_proj.bias),
            _into(room, x_NC, attention.v_proj),
        )
        q, k, v = (x.view(rows, tokens, -1, attention.head_dim).transpose(1, 2) for x in found)
        seen, _ = through_handler(attention, q, k, v, attention_mask, scaling=attention.scaling)
        h_NC.addmm_(seen.reshape(len(h_NC), -1), attention.o_proj.weight.mT)
        x_NC = _normed(self._block.post_attention_layernorm, h_NC)
        wide_NI = self._gated(linear(x_NC, mlp.gate_proj.weight), linear(x_NC, mlp.up_proj.weight))
        return h_NC.addmm_(wide_NI, mlp.down_proj.weight.mT).view_as(hidden_states)


def _into(out: Tensor | None, x_NC: Tensor, part: nn.Linear) -> Tensor:
    """A linear layer's product, written to `out` where given."""
    if out is None:
        return linear(x_NC, part.weight, part.bias)
    if part.bias is None:
        return torch.mm(x_NC, part.weight.mT, out=out)
    return torch.addmm(part.bias, x_NC, part.weight.mT, out=out)


def _normed(norm: nn.Module, x: Tensor) -> Tensor:
    return rms_norm(x, x.shape[-1:], norm.weight, norm.variance_epsilon)


def block_layers(model: PreTrainedModel, blocks: Sequence[nn.Module]) -> tuple[BlockLayers | None, str]:
    """(what runs the layers of a block, its reason), or None and why not."""
    if (problem := misfit(model, blocks)) is not None:
        return None, problem
    parameters = [parameter for block in blocks for parameter in block.parameters()]
    if len({(parameter.device, parameter.dtype) for parameter in parameters}) > 1:
        return None, "its weights are of several kinds"
    gated, reason = gate.select(parameters[0].device, parameters[0].dtype)
    if gated is None:
        return None, reason
    return BlockLayers(blocks, gated), f"sums in the epilogues of products, the gate in one pass ({reason})"
