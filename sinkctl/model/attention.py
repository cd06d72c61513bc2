"""The one seam into transformers: an attention function and a mask function under our name, live inside `with`.

A model run inside `attached` hands every attention layer's queries, keys and values to one handler and does the rest
of its forward pass itself; on leaving, it is as it was.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from sinkctl.errors import ModelError
from sinkctl.model.families import bypassing
from sinkctl.model.handler import Handler, answered, handling

NAME = "sinkctl"


def _attention(module, query, key, value, attention_mask=None, scaling=None, softcap=None, s_aux=None, **_):
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return answered(module, query, key, value, attention_mask, scale, softcap, s_aux), None


def _mask(batch_size, q_length, kv_length, mask_function=None, device=None, **_):
    return handling.get().mask(mask_function, device or torch.device("cpu"))


@contextmanager
def attached(model: PreTrainedModel, handler: Handler) -> Iterator[None]:
    """Route the attention of `model`, and of whatever shares its config object, to `handler`.

    Both interfaces are registered: an attention function without a mask function would get no mask at all. The name
    is registered for the whole process, but reaches only models whose config carries it, which is undone on leaving.
    """
    if model.training:
        raise ModelError("the model is in training mode; call model.eval() first")
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _mask)
    adapted = bypassing(model)
    configs = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    before = {key: config._attn_implementation_internal for key, config in configs.items()}
    token = handling.set(handler)
    try:
        for config in configs.values():
            config._attn_implementation_internal = NAME
        for module, family in adapted:
            module.forward = partial(family.forward, module)
        yield
    finally:
        for module, _ in adapted:
            del module.forward
        for key, config in configs.items():
            config._attn_implementation_internal = before[key]
        handling.reset(token)


def decoder_of(model: PreTrainedModel) -> nn.Module:
    """The part of a causal language model that comes before its head."""
    decoder = model.get_decoder()
    if decoder is None or decoder is model:
        decoder = getattr(model, "model", None)
    if not isinstance(decoder, nn.Module):
        raise ModelError("its class does not tell the decoder from the head; this is not supported")
    return decoder


@torch.no_grad()
def hidden_states(model: PreTrainedModel, ids_BT: Tensor, position_ids_BT: Tensor | None = None):
    """Run the decoder, without its head, and return its output object; positions are 0 unless given.

    Rotation by zero is the identity, so at position 0 queries and keys reach the handler un-rotated. The mask of ones
    keeps transformers from reading the zero positions as one packed document a token.
    """
    positions = torch.zeros_like(ids_BT) if position_ids_BT is None else position_ids_BT
    return decoder_of(model)(
        input_ids=ids_BT, position_ids=positions, attention_mask=torch.ones_like(ids_BT), use_cache=False
    )
