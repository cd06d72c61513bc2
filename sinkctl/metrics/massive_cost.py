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
from sinkctl.model.parts import answering, in_streams, side_by_side, streams_axis

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

    @property
    def often(self) -> list[tuple[int, int]]:
        """Places (token, channel) that are massive in at least half of the samples."""
        return sorted(place for place, times in self.massive.items() if 2 * times >= self.samples)

    @property
    def height(self) -> float:
        """The largest mean |h| of the first token, in medians."""
        return float(self.first_C.max()) / max(self.median, 1e-30)


@dataclass
class Output:
    """What one block gave of a batch, the block that `chosen` would take: those up to it need not be run again."""

    layer: int = -1
    given: Tensor | tuple | None = None
    _massive: bool = False
    _height: float = 0.0

    def see(self, layer: int, block: Activations, given: Tensor | tuple) -> None:
        """Layers come in order, the last one left out."""
        massive = bool(block.often)
        if not self._massive and (massive or block.height > self._height):
            self.layer, self.given, self._massive, self._height = layer, given, massive, block.height

    def of(self, rows: slice) -> "Output":
        """That of some samples; TypeError where a block gives more than one tensor."""
        if not isinstance(self.given, Tensor):
            raise TypeError("its blocks give more than the residual stream")
        return Output(self.layer, self.given[rows])


@contextmanager
def watched(model: PreTrainedModel, size: float, ratio: float, blocks: Sequence[Activations]) -> Iterator[Output]:
    """Inside, every block adds what it shows to its `Activations`; massive: |h| > size and |h| ≥ ratio · median.

    Yields what is kept of one batch.
    """
    kept = Output()

    def see(layer: int, h_NTC: Tensor, given: Tensor | tuple) -> None:
        blocks[layer].add(h_NTC, size, ratio)
        if layer < len(blocks) - 1:
            kept.see(layer, blocks[layer], given)

    with after_blocks(model, see):
        yield kept


def chosen(blocks: Sequence[Activations]) -> Elements | None:
    """Elements massive in at least half of the samples, after the first block that has any.

    Without such, the three largest |h| of the first token (means over samples), after the block where the largest is
    most times the median. The last block is left out: nothing attends after it; None where it is the only one. So are
    blocks that text does not go through.
    """
    ran = [(layer, block) for layer, block in enumerate(blocks[:-1]) if block.samples]
    for layer, block in ran:
        if often := block.often:
            return Elements(layer, often, massive=True)
    if not ran:
        return None
    layer, block = max(ran, key=lambda each: each[1].height)
    channels = block.first_C.topk(min(LARGEST, len(block.first_C))).indices.tolist()
    return Elements(layer, [(0, channel) for channel in channels], massive=False)


@contextmanager
def intervened(model: PreTrainedModel, elements: Elements, value_K: Tensor) -> Iterator[list[Tensor]]:
    """Inside, the elements have these values in every sample; yields a list of what they were, [N, K] a pass."""
    token_K, channel_K = (torch.tensor(x) for x in zip(*elements.places, strict=True))
    before_NK: list[Tensor] = []

    def change(layer: int, h_NTC: Tensor, _: Tensor | tuple) -> Tensor | None:
        if layer != elements.layer:
            return None
        before_NK.append(h_NTC[:, token_K, channel_K].double().cpu())
        changed_NTC = h_NTC.clone()
        changed_NTC[:, token_K, channel_K] = value_K.to(h_NTC)
        return changed_NTC

    with after_blocks(model, change):
        yield before_NK


@contextmanager
def resumed(model: PreTrainedModel, output: Output) -> Iterator[None]:
    """Inside, a pass over the same samples goes on from that output; the blocks up to it are not run."""
    with answering(blocks_of(model)[: output.layer + 1], lambda: output.given):
        yield


@contextmanager
def after_blocks(model: PreTrainedModel, told: Callable[..., Tensor | None]) -> Iterator[None]:
    """Inside, `told(layer, h_NTC, output)` after every block; a tensor that it returns goes on in place of h_NTC.

    Several residual streams stand side by side in h_NTC, one after the other; in the block's own output they do not.
    """
    axis = streams_axis(model)

    def hook(layer: int) -> Callable:
        def after(_: nn.Module, __: tuple, output: Tensor | tuple) -> Tensor | tuple | None:
            h, *others = output if isinstance(output, (tuple, list)) else (output,)
            changed_NTC = told(layer, side_by_side(h.detach(), axis), output)
            if changed_NTC is None:
                return None
            changed = in_streams(changed_NTC, h, axis)
            return type(output)([changed, *others]) if isinstance(output, (tuple, list)) else changed

        return after

    with ExitStack() as hooks:
        for layer, block in enumerate(blocks_of(model)):
            hooks.enter_context(block.register_forward_hook(hook(layer)))
        yield
