"""The one seam into transformers: an attention function and a mask function under our name, live inside `with`.

A model run inside `attached` hands every attention layer's queries, keys and values to one handler and does the rest
of its forward pass itself; on leaving, it is as it was.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, Cache, PreTrainedConfig, PreTrainedModel

from sinkctl.errors import ModelError
from sinkctl.model.families import bypassing
from sinkctl.model.handler import Handler, SinkKey, answered, handling
from sinkctl.model.parallel import sharers
from sinkctl.model.parts import decoder_of
from sinkctl.model.undocumented import attending_by, cached

NAME = "sinkctl"


def through_handler(
    module, query, key, value, attention_mask=None, scaling=None, softcap=None, s_aux=None, position_bias=None, **_
):
    """An attention function as transformers calls it: the live handler's answer, [B, T, H, E], and no weights."""
    if position_bias is not None:
        raise ModelError("it adds a bias of its own to every score")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    sink = sink_of(module)
    if sink is None or not sink.attends:
        return answered(module, query, key, value, attention_mask, scale, softcap, s_aux), None
    return _answered_beside(sink, module, query, key, value, attention_mask, scale, softcap), None


@torch.compiler.disable  # a hook of the layer left the queries in the sink
def _answered_beside(sink: nn.Module, module, query, key, value, mask, scale: float, softcap: float | None) -> Tensor:
    query, key = sink.featured(query), sink.featured(key)
    sink_key, weigh = None, None if sink.normalises else sink.weigh
    if sink.key is not None:
        sink_key = SinkKey(sink.whole_key, sink.value, sink.extra_logit(scale, softcap))
    out_BTHE = answered(module, query, key, value, mask, scale, softcap, sink.logit, sink_key=sink_key, weigh=weigh)
    return sink.added(out_BTHE)


def sink_of(module: nn.Module) -> nn.Module | None:
    """The designed sink of an attention layer; known by name, as its class may be in a checkpoint's own code."""
    sink = getattr(module, "sink", None)
    return sink if type(sink).__name__ == "AttentionSink" else None


def sinks_of(model: nn.Module) -> list[nn.Module]:
    """The designed sinks of a model, one an attention layer."""
    return [sink for module in model.modules() if (sink := sink_of(module)) is not None]


def _mask(batch_size, q_length, kv_length, mask_function=None, device=None, **_):
    return handling.get().mask(mask_function, kv_length, device or torch.device("cpu"))


def configs_of(model: nn.Module) -> list:
    """Every config object that the parts of `model` go by, each once."""
    own = (getattr(module, "config", None) for module in model.modules())
    return list({id(config): config for config in own if isinstance(config, PreTrainedConfig)}.values())


class Attachment:
    """Routes the attention of a model, and of whatever shares its config object, to a handler, inside `with active()`.

    Both interfaces are registered: an attention function without a mask function would get no mask at all. The name
    is registered for the whole process, but reaches only models whose config carries it, which is undone on leaving.
    """

    def __init__(self, model: PreTrainedModel, handler: Handler):
        if model.training:
            raise ModelError("the model is in training mode; call model.eval() first")
        self._handler = handler
        handler.sharers = sharers(model)
        self._adapted, self._watched = bypassing(model), handler.watched(model)
        self._configs = configs_of(model)
        AttentionInterface.register(NAME, through_handler)
        AttentionMaskInterface.register(NAME, _mask)

    @contextmanager
    def active(self) -> Iterator[None]:
        own = [vars(module).get("forward") for module, _ in self._adapted]  # accelerate puts one on the instance
        token = handling.set(self._handler)
        try:
            for module, family in self._adapted:
                module.forward = partial(family.forward, module)
            with attending_by(self._configs, NAME), ExitStack() as hooks:
                for module, hook in self._watched:
                    hooks.callback(module.register_forward_hook(hook).remove)
                yield
        finally:
            for (module, _), forward in zip(self._adapted, own, strict=True):
                del module.forward
                if forward is not None:
                    module.forward = forward
            handling.reset(token)


def attached(model: PreTrainedModel, handler: Handler) -> AbstractContextManager[None]:
    """`with attached(model, handler):` the handler answers every attention layer; afterwards all is as it was."""
    return Attachment(model, handler).active()


@torch.no_grad()
def hidden_states(
    model: PreTrainedModel,
    ids_BT: Tensor,
    position_ids_BT: Tensor | None = None,
    past: Cache | None = None,
    real_BT: Tensor | None = None,
    **options: bool,
):
    """Run the decoder, without its head, and return its output object; positions are 0 unless given.

    Rotation by zero is the identity, so at position 0 queries and keys reach the handler un-rotated. The mask of ones
    keeps transformers from reading the zero positions as one packed document a token. `past` carries what recurrent
    layers carry; where `real_BT` is 0 there is padding, which they leave out. `options` go to the decoder as they are.
    """
    positions = torch.zeros_like(ids_BT) if position_ids_BT is None else position_ids_BT
    mask = torch.ones_like(ids_BT) if real_BT is None else real_BT
    decoder = decoder_of(model)
    carried = dict(use_cache=False) if past is None else cached(decoder, past)
    return decoder(input_ids=ids_BT, position_ids=positions, attention_mask=mask, **carried, **options)
