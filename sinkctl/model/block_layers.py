"""Decoder layers over a block of tokens: products by torch, sums in their epilogues, little else over memory.

The layers of transformers, compiled or not, turn queries and keys by position 0, write what a product adds to the
residual stream before they add it, and, not compiled, write the gate three times. Here nothing is compiled but kernels
that any shape shares.
B rows, T tokens, C channels, D width of a head.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, rms_norm
from transformers import PreTrainedModel

from sinkctl.kernels import gate
from sinkctl.kernels.implementation import Implementation
from sinkctl.model.attention import decoder_of, through_handler
from sinkctl.model.compiled import called_as, worth_compiling
from sinkctl.model.handler import handling
from sinkctl.model.row_layers import CLASSES, is_hooked, misfit


class BlockLayers:
    """Runs layers so inside `with active()`, without gradients; each writes over the residual stream it is given.

    Layers that something has been hooked into since are run as they are.
    """

    def __init__(self, blocks: Sequence[nn.Module], gated: Implementation, norms: Sequence[nn.Module] = ()):
        """`blocks` of which `misfit` says nothing, and other RMSNorms of their kind."""
        self._modules = [*blocks, *norms]
        self._parts = [part for module in self._modules for part in module.modules()]
        self._calls = [*(_Layer(block, gated) for block in blocks), *(partial(_normed, norm) for norm in norms)]

    @contextmanager
    def active(self) -> Iterator[None]:
        hooked = any(map(is_hooked, self._parts))
        with nullcontext() if hooked else called_as(self._modules, self._calls):
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
        parts = ((attention.q_proj, None), (attention.k_proj, None), (attention.v_proj, room))
        found = (_product(x_NC, part, out) for part, out in parts)
        q, k, v = (x.view(rows, tokens, -1, attention.head_dim).transpose(1, 2) for x in found)
        seen, _ = through_handler(attention, q, k, v, attention_mask, scaling=attention.scaling)
        h_NC.addmm_(seen.reshape(len(h_NC), -1), attention.o_proj.weight.mT)
        x_NC = _normed(self._block.post_attention_layernorm, h_NC)
        wide_NF = self._gated(linear(x_NC, mlp.gate_proj.weight), linear(x_NC, mlp.up_proj.weight))
        return h_NC.addmm_(wide_NF, mlp.down_proj.weight.mT).view_as(hidden_states)


def _product(x_NC: Tensor, part: nn.Linear, out: Tensor | None) -> Tensor:
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
    kinds = {kind for block in blocks for kind in _kinds(block)}
    if len(kinds) > 1:
        return None, "its weights are of several kinds"
    gated, reason = gate.select(*next(iter(kinds)))
    if gated is None:
        return None, reason
    last = getattr(decoder_of(model), "norm", None)
    alike = type(last) is type(blocks[0].input_layernorm) and not is_hooked(last) and _kinds(last) == kinds
    layers = BlockLayers(blocks, gated, [last] if alike else [])
    return layers, f"sums in the epilogues of products, the gate in one pass ({reason})"


def _kinds(module: nn.Module) -> set[tuple[torch.device, torch.dtype]]:
    return {(parameter.device, parameter.dtype) for parameter in module.parameters()}


def worth_compiling_blocks(model: PreTrainedModel, device: torch.device, tokens: float | None) -> tuple[bool, str]:
    """Whether to compile layers that take a text of about `tokens` tokens in blocks, and why."""
    blocks = [module for module in model.modules() if type(module).__name__ in CLASSES]
    if blocks and block_layers(model, blocks)[0] is not None:
        return False, "its layers need nothing compiled"
    return worth_compiling(model, device, tokens)
