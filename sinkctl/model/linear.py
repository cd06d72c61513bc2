"""Linear layers of a model by the fastest implementation there is for a forward pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from sinkctl.kernels.implementation import Implementation
from sinkctl.kernels.linear import IMPLEMENTATIONS, select


@contextmanager
def fast_linear(model: nn.Module) -> Iterator[str | None]:
    """Inside, plain linear layers of `model` run by what `kernels.linear` chooses; yields the reason, None if nothing
    changes. Layers that something else stands in for already (quantized, offloaded, adapted) are left as they are."""
    layers = [m for m in model.modules() if type(m) is nn.Linear and "forward" not in vars(m)]
    chosen = [(layer, *select(layer.weight)) for layer in layers if type(layer.weight.data) is Tensor]
    faster = [(layer, run, why) for layer, run, why in chosen if run is not IMPLEMENTATIONS["torch"]]
    for layer, run, _ in faster:
        layer.forward = partial(_forward, layer, run)
    try:
        yield f"{faster[0][1].name}: {faster[0][2]}" if faster else None
    finally:
        for layer, _, _ in faster:
            del layer.forward


def _forward(layer: nn.Linear, run: Implementation, x: Tensor) -> Tensor:
    if torch.is_grad_enabled() or x.dtype != layer.weight.dtype:
        return type(layer).forward(layer, x)
    return run(x, layer.weight, layer.bias)
