"""How far the outputs of decoder layers are above what they would be without massive activations.

Shapes: B sequences, T tokens, C channels.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sinkctl.kernels.fused import fused


def excess(h_BTC: Tensor, limit: float) -> Tensor:
    """Σ log(|h| / (limit · m)) over the elements above limit · m, in nats a sequence.

    m is a sequence's median over tokens of their median |h| (the lower of two), which no gradient goes through. A
    logarithm, so that what is a thousand times too large is drawn as hard as what is ten times too large, relative to
    its own size.
    """
    median_B = h_BTC.detach().abs().float().median(-1).values.median(-1).values
    most_B = (limit * median_B).clamp(min=torch.finfo(torch.float32).tiny)
    return fused(_above, h_BTC.device)(h_BTC, most_B) / len(h_BTC)


def _above(h_BTC: Tensor, most_B: Tensor) -> Tensor:
    return (h_BTC.abs().float() / most_B[:, None, None]).clamp(min=1).log().sum()


@contextmanager
def excesses(layers: Iterable[nn.Module], limit: float) -> Iterator[list[Tensor]]:
    """Inside, the list gets `excess` of each layer's output in every pass that takes gradients."""
    found: list[Tensor] = []

    @torch.compiler.disable  # a compiled layer hands its output over and goes on
    def keep(layer: nn.Module, inputs: tuple, output: Tensor | tuple) -> None:
        if torch.is_grad_enabled():
            found.append(excess(output[0] if isinstance(output, tuple) else output, limit))

    hooks = [layer.register_forward_hook(keep) for layer in layers]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
