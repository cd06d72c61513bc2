"""Keys and values as a cache would keep them while a model learns: quantization-aware training.

Shapes: D width of a head, E of a head in what a projection gives, C channels that share a range, … any other axes.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sinkctl.kernels.rounded_decode.quantize import rounded
from sinkctl.recipe.training import RoundedSettings
from sinkctl.sinks.code.sink_model import FUSED, PLACES, attention_layers


class StraightThrough(torch.autograd.Function):
    """x [..., D] in few bits, `channels` neighbours by one range, with the gradient of x itself.

    Bengio et al. 2013, arXiv 1308.3432; Jacob et al. 2018, arXiv 1712.05877.
    """

    @staticmethod
    def forward(ctx, x: Tensor, bits: int | str, channels: int) -> Tensor:
        return rounded(x, bits, channels)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient, None, None


@contextmanager
def keys_and_values_rounded(model: PreTrainedModel, settings: RoundedSettings | None) -> Iterator[None]:
    """Inside, every layer's keys, before their rotation, and values are rounded in passes that take gradients.

    Every query sees all of them so, its own and recent ones too, and in layers of any window, which a cache may have in
    full. Does nothing where `settings` is None.
    """
    hooks = []
    for attention in attention_layers(model) if settings is not None else ():
        for wire in getattr(attention, "wires", ()):
            wire.tie()  # what a sink takes of keys and values goes first, whatever stands in a projection's place
        for place in ("lost keys", "lost values"):
            name = next(name for name in PLACES[place] if hasattr(attention, name))
            rounding = _Rounding(model, settings, place == "lost keys", name == FUSED)
            hooks.append(getattr(attention, name).register_forward_hook(rounding))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Rounding:
    """Rounds the keys or the values in what a projection gives, or the norm behind it."""

    def __init__(self, model: PreTrainedModel, settings: RoundedSettings, keys: bool, fused: bool):
        config = model.config
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.each, first = (3 * width, width if keys else 2 * width) if fused else (width, 0)  # fused: and its query
        self.own, self.settings = slice(first, first + width), settings

    def __call__(self, module: nn.Module, inputs: tuple, out: Tensor) -> Tensor | None:
        if not torch.is_grad_enabled():
            return None
        x = out.unflatten(-1, (-1, self.each))  # [..., 1, D] from a norm, whichever axis its heads are
        held = StraightThrough.apply(x[..., self.own], self.settings.bits, self.settings.group)
        return x.slice_scatter(held, -1, self.own.start, self.own.stop).reshape(out.shape)
