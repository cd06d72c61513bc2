"""Keys and values as a cache would keep them while a model learns: quantization-aware training.

Shapes: B sequences, G key/value heads, T tokens, D width of a head, E of a head in what a projection gives.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sinkctl.kernels.rounded_decode.quantize import rounded
from sinkctl.recipe.training import RoundedSettings
from sinkctl.sinks.code import FAMILIES
from sinkctl.sinks.code.sink_model import FUSED, PLACES, attention_layers


def fake_quantized(x_BGTD: Tensor, bits: int | str, together: int, channels: int | None) -> Tensor:
    """What is left of keys or values in few bits, with the gradient of what they were (straight-through).

    `channels` neighbours of a token share a range; None: each channel has one over `together` tokens, of which the last
    that fill no group stay as they are. Bengio et al. 2013, arXiv 1308.3432; Jacob et al. 2018, arXiv 1712.05877.
    """
    return _StraightThrough.apply(x_BGTD, bits, together, channels)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_BGTD: Tensor, bits: int | str, together: int, channels: int | None) -> Tensor:
        whole = x_BGTD.shape[2] // together * together
        grouped = x_BGTD[:, :, :whole].unflatten(2, (-1, together))
        return torch.cat([rounded(grouped, bits, channels).flatten(2, 3), x_BGTD[:, :, whole:]], dim=2)

    @staticmethod
    def backward(ctx, gradient_BGTD: Tensor) -> tuple[Tensor, None, None, None]:
        return gradient_BGTD, None, None, None


@contextmanager
def keys_and_values_rounded(
    model: PreTrainedModel, settings: RoundedSettings | None, when: Callable[[], bool] = torch.is_grad_enabled
) -> Iterator[None]:
    """Inside, every layer's keys, before their rotation, and values are rounded, in passes that take gradients.

    Every query sees them so, recent ones too, which a cache may have in full. Does nothing where `settings` is None.
    """
    hooks = []
    for attention in attention_layers(model) if settings is not None else ():
        for place in ("lost keys", "lost values"):
            name = next(name for name in PLACES[place] if hasattr(attention, name))
            rounding = _Rounding(model, settings, place == "lost keys", name == FUSED, when)
            hooks.append(getattr(attention, name).register_forward_hook(rounding))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Rounding:
    """Rounds the keys or the values in what a projection gives, or the norm behind it."""

    def __init__(
        self, model: PreTrainedModel, settings: RoundedSettings, keys: bool, fused: bool, when: Callable[[], bool]
    ):
        self.when, config, family = when, model.config, FAMILIES.get(model.config.model_type.removeprefix("sink_"))
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.each = 3 * width if fused else width  # of a head; fused: its query, key and value
        self.own = slice(width if keys else 2 * width, 2 * width if keys else 3 * width) if fused else slice(0, width)
        self.norms_by_head = family is not None and family.classes()["AutoModel"].norms_by_head
        by_channel = keys and settings.keys == "channel"
        self.how = dict(
            bits=settings.bits, together=settings.group if by_channel else 1,
            channels=None if by_channel else settings.group,
        )  # fmt: skip

    def __call__(self, module: nn.Module, inputs: tuple, out: Tensor) -> Tensor | None:
        if not self.when():
            return None
        if out.dim() == 4 and self.norms_by_head:  # from a norm that has heads before tokens
            return fake_quantized(out, **self.how)
        x_BTGE = out if out.dim() == 4 else out.unflatten(-1, (-1, self.each))
        rounded_BTGD = fake_quantized(x_BTGE[..., self.own].transpose(1, 2), **self.how).transpose(1, 2)
        return x_BTGE.slice_scatter(rounded_BTGD, -1, self.own.start, self.own.stop).reshape(out.shape)
