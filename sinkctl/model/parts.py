"""The part of a model that text goes through: of a multimodal checkpoint its text decoder alone."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from sinkctl.errors import ModelError

# Of models whose blocks hand on several residual streams: how many, as the config calls it → their axis.
STREAMS = {"altup_num_inputs": 0, "hc_mult": 2}  # AltUp (Gemma 3n): [S, B, T, C]; hyper-connections: [B, T, S, C]


def decoder_of(model: PreTrainedModel) -> nn.Module:
    """The part of a causal language model that comes before its head."""
    decoder = model.get_decoder()
    if decoder is None or decoder is model:
        decoder = getattr(model, "model", None)
    if not isinstance(decoder, nn.Module):
        raise ModelError("its class does not tell the decoder from the head; this is not supported")
    return decoder


def attending_part(model: PreTrainedModel, inputs: Iterable[str]) -> nn.Module:
    """What attends to such inputs as this project looks at: of a multimodal decoder not its towers."""
    return decoder_of(model) if "pixel_values" in inputs and model.can_generate() else model


def stack_of(model: PreTrainedModel, part: str) -> nn.Module:
    """The encoder, or the decoder, of an encoder-decoder."""
    return model.get_encoder() if part == "encoder" else model.get_decoder()


def device_of(model: PreTrainedModel) -> torch.device:
    """Where its inputs go: where its first layers run, which may be kept elsewhere (accelerate's offloading)."""
    if model.device.type != "meta":
        return model.device
    places = model.hf_device_map.values()
    return torch.device(next((place for place in places if place not in ("cpu", "disk")), "cpu"))


def text_modules(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Name in `model` → module, of its decoder without towers for images or sound; of other models all modules."""
    whole = dict(model.named_modules())
    if not model.can_generate():
        return whole
    decoder = decoder_of(model)
    towers = [  # inside the decoder of some (GIT): models by another config
        part
        for part in decoder.modules()
        if isinstance(part, PreTrainedModel) and type(part.config) is not type(decoder.config)
    ]
    outside = {id(module) for tower in towers for module in tower.modules()}
    inside = {id(module) for module in decoder.modules()} - outside
    return {name: module for name, module in whole.items() if id(module) in inside}


def towers_of(config: PreTrainedConfig) -> list[str]:
    """What a multimodal config describes besides its text decoder: "vision", "audio"."""
    return [name for name in ("vision", "audio") if getattr(config, f"{name}_config", None) is not None]


@contextmanager
def answering(blocks: Sequence[nn.Module], output: Callable[[], Any]) -> Iterator[None]:
    """Inside, these layers compute nothing; what follows them gets `output()`."""
    own = [vars(block).get("forward") for block in blocks]  # accelerate puts one on the instance
    try:
        for block in blocks:
            block.forward = lambda *_, **__: output()
        yield
    finally:
        for block, forward in zip(blocks, own, strict=True):
            del block.forward
            if forward is not None:
                block.forward = forward


def streams_axis(model: PreTrainedModel) -> int | None:
    """Along which axis of a block's output its residual streams lie; None where there is one, [B, T, C]."""
    config = model.config.get_text_config()
    return next((axis for name, axis in STREAMS.items() if (getattr(config, name, None) or 1) > 1), None)


def side_by_side(h: Tensor, axis: int | None) -> Tensor:
    """The channels of all streams in one row a token, [B, T, S·C]."""
    return h if axis is None else h.movedim(axis, 2).flatten(2)


def in_streams(h_BTC: Tensor, like: Tensor, axis: int | None) -> Tensor:
    """What `side_by_side` made of `like`, taken apart again."""
    return h_BTC if axis is None else h_BTC.unflatten(2, (like.shape[axis], -1)).movedim(2, axis)
