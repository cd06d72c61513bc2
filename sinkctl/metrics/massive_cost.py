"""Massive activations found by their place in the residual stream, and set to something else.

N samples of one length, T tokens, C channels, K elements; h is the residual stream after a block.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sinkctl.kernels.activations import lower_median
from sinkctl.metrics.means import precise
from sinkctl.metrics.observe import blocks_of
from sinkctl.model.parts import in_streams, side_by_side, streams_axis

LARGEST = 3  # elements taken where none is massive


class Elements(NamedTuple):
    """Elements of the residual stream after one block."""

    layer: int
    places: list[tuple[int, int]]  # token, channel
    massive: bool  # by the definition; otherwise they are the largest of the first token


@dataclass
class Activations:
    """Totals over samples after one block."""

    samples: int = 0
    massive: Counter[tuple[int, int]] = field(default_factory=Counter)  # (token, channel) → samples where massive
    first_C: Tensor | float = 0.0  # Σ |h| of the first token
    median: float = 0.0  # Σ of the samples' medians

    def add(self, h_NTC: Tensor, size: float, ratio: float) -> None:
        size_NTC = precise(h_NTC).abs()
        median_N = lower_median(size_NTC.masked_fill(~size_NTC.isfinite(), torch.nan).flatten(1))
        massive_NTC = size_NTC.isfinite() & (size_NTC > size) & (size_NTC >= ratio * median_N[:, None, None])
        self.massive.update((token, channel) for _, token, channel in massive_NTC.nonzero().tolist())
        self.first_C = self.first_C + size_NTC[:, 0].nan_to_num().double().sum(0).cpu()
        self.median += float(median_N.sum())
        self.samples += len(h_NTC)


@contextmanager
def watched(model: PreTrainedModel, size: float, ratio: float, blocks: Sequence[Activations]) -> Iterator[None]:
    """Inside, every block adds what it shows to its `Activations`; massive: |h| > size and |h| ≥ ratio · median."""
    with after_blocks(model, lambda layer, h_NTC: blocks[layer].add(h_NTC, size, ratio)):
        yield


def chosen(blocks: Sequence[Activations]) -> Elements | None:
    """Elements massive in at least half of the samples, after the first block that has any.

    Without such, the three largest |h| of the first token (means over samples), after the block where the largest is
    most times the median. The last block is left out: nothing attends after it; None where it is the only one. So are
    blocks that text does not go through.
    """
    ran = [(layer, block) for layer, block in enumerate(blocks[:-1]) if block.samples]
    for layer, block in ran:
        often = sorted(place for place, times in block.massive.items() if 2 * times >= block.samples)
        if often:
            return Elements(layer, often, massive=True)
    if not ran:
        return None
    layer, block = max(ran, key=lambda each: float(each[1].first_C.max()) / max(each[1].median, 1e-30))
    channels = block.first_C.topk(min(LARGEST, len(block.first_C))).indices.tolist()
    return Elements(layer, [(0, channel) for channel in channels], massive=False)


@contextmanager
def intervened(model: PreTrainedModel, elements: Elements, value_K: Tensor) -> Iterator[list[Tensor]]:
    """Inside, the elements have these values in every sample; yields a list of what they were, [N, K] a pass."""
    token_K, channel_K = (torch.tensor(x) for x in zip(*elements.places, strict=True))
    before_NK: list[Tensor] = []

    def change(layer: int, h_NTC: Tensor) -> Tensor | None:
        if layer != elements.layer:
            return None
        before_NK.append(h_NTC[:, token_K, channel_K].double().cpu())
        changed_NTC = h_NTC.clone()
        changed_NTC[:, token_K, channel_K] = value_K.to(h_NTC)
        return changed_NTC

    with after_blocks(model, change):
        yield before_NK


@contextmanager
def after_blocks(model: PreTrainedModel, told: Callable[[int, Tensor], Tensor | None]) -> Iterator[None]:
    """Inside, `told(layer, h_NTC)` after every block; a tensor that it returns goes on in place of h_NTC.

    Several residual streams stand side by side in it, one after the other.
    """
    axis = streams_axis(model)

    def hook(layer: int) -> Callable:
        def after(_: nn.Module, __: tuple, output: Tensor | tuple) -> Tensor | tuple | None:
            h, *others = output if isinstance(output, (tuple, list)) else (output,)
            changed_NTC = told(layer, side_by_side(h.detach(), axis))
            if changed_NTC is None:
                return None
            changed = in_streams(changed_NTC, h, axis)
            return type(output)([changed, *others]) if isinstance(output, (tuple, list)) else changed

        return after

    with ExitStack() as hooks:
        for layer, block in enumerate(blocks_of(model)):
            hooks.enter_context(block.register_forward_hook(hook(layer)))
        yield
