"""Decoder layers over a block of tokens: products by torch, sums in their epilogues, little else over memory.

The layers of transformers, compiled or not, turn queries and keys by position 0, write what a product adds to the
residual stream before they add it, and, not compiled, write the gate three times. Here nothing is compiled but kernels
that any shape shares.
B rows, T tokens, C channels, D width of a head.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, rms_norm
from transformers import PreTrainedModel

from sinkctl.kernels import gate
from sinkctl.kernels.implementation import Implementation
from sinkctl.model.attention import decoder_of, through_handler
from sinkctl.model.compiled import called_as
from sinkctl.model.handler import handling
from sinkctl.model.row_layers import misfit


class BlockLayers:
    """Runs layers so inside `with active()`, without gradients; each writes over the residual stream it is given."""

    def __init__(self, blocks: Sequence[nn.Module], gated: Implementation, norms: Sequence[nn.Module] = ()):
        """`blocks` of which `misfit` says nothing, and other RMSNorms of their kind."""
        self._modules = [*blocks, *norms]
        self._calls = [*(_Layer(block, gated) for block in blocks), *(partial(_normed, norm) for norm in norms)]

    @contextmanager
    def active(self) -> Iterator[None]:
        with called_as(self._modules, self._calls):
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
        found = (*_products(x_NC, attention.q_proj, attention.k_proj), _into(room, x_NC, attention.v_proj))
        q, k, v = (x.unflatten(0, (rows, tokens)).unflatten(2, (-1, attention.head_dim)) for x in found)
        heads = (x.transpose(1, 2) for x in (q, k, v))
        seen, _ = through_handler(attention, *heads, attention_mask, scaling=attention.scaling)
        h_NC.addmm_(seen.reshape(len(h_NC), -1), attention.o_proj.weight.mT)
        x_NC = _normed(self._block.post_attention_layernorm, h_NC)
        wide_NF = self._gated(*_products(x_NC, mlp.gate_proj, mlp.up_proj))
        return h_NC.addmm_(wide_NF, mlp.down_proj.weight.mT).view_as(hidden_states)


def _products(x_NC: Tensor, *parts: nn.Linear) -> Sequence[Tensor]:
    """Of each linear layer; in one product where their matrices lie one after the other in memory."""
    weights = [part.weight for part in parts]
    joined = in_a_row(weights)
    if joined is None or parts[0].bias is not None:
        return [linear(x_NC, part.weight, part.bias) for part in parts]
    return linear(x_NC, joined).split(list(map(len, weights)), dim=-1)


def in_a_row(weights: Sequence[Tensor]) -> Tensor | None:
    """All of them as one matrix, where they lie one after the other in one memory."""
    first, end = weights[0], weights[0].data_ptr()
    for weight in weights:
        elsewhere = weight.untyped_storage().data_ptr() != first.untyped_storage().data_ptr()
        if elsewhere or weight.data_ptr() != end or not weight.is_contiguous():
            return None
        end += weight.nbytes
    return first.as_strided((sum(map(len, weights)), first.shape[1]), first.stride())


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
    last = getattr(decoder_of(model), "norm", None)
    norms = [last] if type(last) is type(blocks[0].input_layernorm) and not last._forward_hooks else []
    return BlockLayers(blocks, gated, norms), f"sums in the epilogues of products, the gate in one pass ({reason})"
