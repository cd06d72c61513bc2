"""Decoder layers for one token of each of a few rows, as four reads of their matrices: gates and sums ride along.

What torch.compile makes of such a layer is bound by the same reads, but comes less close to the memory's speed, and
has to be compiled. R rows, C channels, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sinkctl.kernels.implementation import Implementation
from sinkctl.kernels.row_products import Norm, select
from sinkctl.model.attention import through_handler
from sinkctl.model.compiled import called_as
from sinkctl.model.parallel import sharers

# Layers of transformers that add attention, then a gated SiLU of two matrices, each behind an RMSNorm of its own.
CLASSES = ("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer")
# Models of such layers alone, whose logits are one matrix behind an RMSNorm.
MODELS = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM")


class RowLayers:
    """Runs layers, and what comes before and after all of them, by `row_products` inside `with active()`."""

    def __init__(self, model: PreTrainedModel, blocks: Sequence[nn.Module], products: Implementation):
        """`blocks` of which `misfit` says nothing."""
        self._calls: dict[nn.Module, Callable] = {block: _Layer(block, products) for block in blocks}
        if headed(model, blocks):
            norm, head = model.model.norm, model.lm_head
            self._calls |= {
                model.model.rotary_emb: lambda *_, **__: None,  # a `_Layer` asks for no angles
                norm: lambda hidden_states: hidden_states,
                head: _Head(norm, head, products),
            }

    @contextmanager
    def active(self) -> Iterator[None]:
        with called_as(list(self._calls), list(self._calls.values())):
            yield


class _Head:
    """The final norm and the head, called as the head is, by what the norm is to be taken of."""

    def __init__(self, norm: nn.Module, head: nn.Module, products: Implementation):
        self._norm, self._weights, self._products = _norm(norm), [head.weight], products

    def __call__(self, hidden_states: Tensor) -> Tensor:
        """[R, 1, C] → [R, 1, V]."""
        return self._products(hidden_states[:, 0], self._weights, norm=self._norm)[:, None]


class _Layer:
    """One layer, called as it is, by one token a row."""

    def __init__(self, block: nn.Module, products: Implementation):
        attention, mlp = block.self_attn, block.mlp
        self._attention, self._products = attention, products
        into = (attention.q_proj, attention.k_proj, attention.v_proj)
        self._into, self._bias = [part.weight for part in into], None
        if into[0].bias is not None:
            self._bias = torch.cat([part.bias for part in into])
        self._gated = [mlp.gate_proj.weight, mlp.up_proj.weight]
        self._out, self._down = [attention.o_proj.weight], [mlp.down_proj.weight]
        self._norms = [_norm(norm) for norm in (block.input_layernorm, block.post_attention_layernorm)]

    def __call__(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **_: Any) -> Tensor:
        """[R, 1, C] → [R, 1, C]; queries and keys stay as they are at position 0, where rotation is the identity."""
        attention, x_RC = self._attention, hidden_states[:, 0]
        qkv = self._products(x_RC, self._into, norm=self._norms[0], add=self._bias)
        sizes = [len(weight) for weight in self._into]
        q, k, v = (part.unflatten(1, (-1, 1, attention.head_dim)) for part in qkv.split(sizes, 1))
        seen, _ = through_handler(attention, q, k, v, attention_mask, scaling=attention.scaling)
        x_RC = self._products(seen.flatten(1), self._out, add=x_RC)
        wide = self._products(x_RC, self._gated, norm=self._norms[1], gated=True)
        return self._products(wide, self._down, add=x_RC)[:, None]


def _norm(norm: nn.Module) -> Norm:
    return Norm(norm.weight, norm.variance_epsilon)


def row_layers(model: PreTrainedModel, blocks: Sequence[nn.Module], rows: int) -> tuple[RowLayers | None, str]:
    """(what runs the layers of a step, its reason), or None and why not."""
    if (problem := misfit(model, blocks)) is not None:
        return None, problem
    for block in blocks:
        products, reason = select([part.weight for part in block.modules() if isinstance(part, nn.Linear)], rows)
        if products is None:
            return None, reason
    return RowLayers(model, blocks, products), f"{products.name}: {reason}"


def headed(model: PreTrainedModel, blocks: Sequence[nn.Module]) -> bool:
    """Whether what comes before and after these layers is run so too."""
    if not _of_transformers(model, MODELS) or list(model.model.layers) != list(blocks):
        return False
    head, like = model.lm_head, blocks[0].self_attn.o_proj.weight
    parts = (model.model.rotary_emb, model.model.norm, head)
    if type(head) is not nn.Linear or head.bias is not None or any(map(is_hooked, parts)):
        return False
    weight = head.weight
    return (weight.dtype, weight.device) == (like.dtype, like.device) and weight.is_contiguous()


def _of_transformers(module: nn.Module, names: Sequence[str]) -> bool:
    return type(module).__name__ in names and type(module).__module__.startswith("transformers.models.")


def misfit(model: PreTrainedModel, blocks: Sequence[nn.Module]) -> str | None:
    """What keeps these layers from being run so; None: nothing."""
    if sharers(model) > 1:
        return "what processes add up is no part of them"
    if any(getattr(module, "attention_scaling", 1.0) != 1.0 for module in model.modules()):
        return "its rotary embedding scales what it turns"
    for block in blocks:
        if not _of_transformers(block, CLASSES):
            return f"{type(block).__name__} is not one of {', '.join(CLASSES)}"
        parts = list(block.modules())
        if any(map(is_hooked, parts)):
            return "something is hooked into its layers"
        linear = [part for part in parts if type(part) is nn.Linear]
        if len(linear) != 7:
            return "an adapter, or another kind of weights, is in its layers"
        if any(part.bias is not None for part in linear[3:]):
            return "its output projections have biases"
        if type(block.mlp.act_fn).__name__ not in ("SiLU", "SiLUActivation"):
            return "its gate is no SiLU"
    return None


def is_hooked(module: nn.Module) -> bool:
    """Whether something else than its class has a say in what it computes."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))
