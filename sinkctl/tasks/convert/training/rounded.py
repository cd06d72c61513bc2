"""Keys and values as a cache would keep them while a model learns: quantization-aware training.

Shapes: T tokens, D width of a head, E of a head in what a projection gives, C channels that share a range, … any other
axes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sinkctl.kernels.rounded_decode.quantize import rounded, rounded_within
from sinkctl.recipe.training import RoundedSettings
from sinkctl.sinks.code.sink_model import FUSED, PLACES, attention_layers


def rounded_so_far(x_TD: Tensor, bits: int | str, tokens: int) -> Tensor:
    """x [..., T, D] in few bits, each number by its channel's range over so many tokens up to its own.

    Of a cache's groups by channel, what the last token of each gets. Where fewer tokens came before, over those.
    """
    return rounded_within(x_TD, bits, *(_so_far(x_TD, tokens, most) for most in (torch.minimum, torch.maximum)))


def _so_far(x_TD: Tensor, tokens: int, most: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The least or the greatest of so many tokens, twice as many in each round."""
    reach = 1
    while reach < tokens:
        back = min(reach, tokens - reach)
        x_TD = most(x_TD, torch.cat([x_TD[..., :back, :], x_TD[..., :-back, :]], dim=-2))
        reach += back
    return x_TD


class StraightThrough(torch.autograd.Function):
    """x [..., D] in few bits, `channels` neighbours by one range, or [..., T, D] by `tokens` of a channel, with the
    gradient of x itself.

    Bengio et al. 2013, arXiv 1308.3432; Jacob et al. 2018, arXiv 1712.05877.
    """

    @staticmethod
    def forward(ctx, x: Tensor, bits: int | str, channels: int | None, tokens: int = 1) -> Tensor:
        return rounded(x, bits, channels) if channels is not None else rounded_so_far(x, bits, tokens)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return gradient, None, None, None


@contextmanager
def keys_and_values_rounded(model: PreTrainedModel, settings: RoundedSettings | None) -> Iterator[None]:
    """Inside, every layer's keys, before their rotation, and values are rounded in passes that take gradients.

    Keys by channel have ranges over tokens before them: over later ones, a query would see ahead.
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
        self.by_channel = keys and settings.keys == "channel"
        self.heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads

    def __call__(self, module: nn.Module, inputs: tuple, out: Tensor) -> Tensor | None:
        if not torch.is_grad_enabled():
            return None
        x = out.unflatten(-1, (-1, self.each))  # [..., 1, D] from a norm, whichever axis its heads are
        if self.by_channel:  # a norm of each head may have heads before tokens
            tokens = -3 if out.dim() == 3 or out.shape[1] == self.heads != out.shape[2] else -4
            x_TD = x[..., self.own].movedim(tokens, -2)
            held = StraightThrough.apply(x_TD, self.settings.bits, None, self.settings.group).movedim(-2, tokens)
        else:
            held = StraightThrough.apply(x[..., self.own], self.settings.bits, self.settings.group)
        return x.slice_scatter(held, -1, self.own.start, self.own.stop).reshape(out.shape)
