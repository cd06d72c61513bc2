"""How far one token spreads: samples with a token swapped, beside passes over them as they are.

N samples of one length, T tokens.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from sinkctl.errors import TextError
from sinkctl.metrics.continued import Kept
from sinkctl.metrics.mixing import mixing, residuals, spread, swapped
from sinkctl.metrics.next_token import Seen
from sinkctl.result.measure import MixingLine
from sinkctl.tasks.measure.passes import Passes

MIXED = 2  # samples that a token is swapped in: they differ little


class Swaps:
    """Batch by batch: `kept` around a pass of the first samples, then `run` beside it, then `end`."""

    def __init__(self, passes: Passes, ids_NT: Tensor, seed: int):
        self._passes, self._place = passes, max(2, ids_NT.shape[1] // 4)
        self.notes: list[str] = []
        try:
            self._other_NT = swapped(ids_NT, self._place, seed)[:MIXED]
        except TextError as error:
            self._other_NT = ids_NT[:0]
            self.notes.append(f"No token was swapped: {error}.")
        self._changes: dict[str, list[Tensor]] = {}

    @contextmanager
    def kept(self) -> Iterator[list[Tensor]]:
        """Inside, the residual streams of the samples that are still to come are kept."""
        if not len(self._other_NT):
            yield []
            return
        with residuals(self._passes.model, len(self._other_NT)) as before:
            yield before

    def run(self, name: str, before: list[Tensor], kept: Kept, also: Seen | None, bos: int = 0) -> None:
        """`before` and `kept`: what the pass left, of samples without their first token where `bos` is 1."""
        if not before:
            return
        rows = len(before[0])
        other_NT, place = self._other_NT[:rows, bos:], self._place - bos
        change_LNT = spread(
            self._passes.model, before,
            lambda: self._passes.after(f"one token swapped, {name}", other_NT, kept.of(range(rows)), also, place),
        )  # fmt: skip
        self._changes.setdefault(name, []).append(change_LNT[:, :, place + 1 - other_NT.shape[1] :])

    def end(self, samples: int) -> None:
        """After a batch of so many samples."""
        self._other_NT = self._other_NT[samples:]

    @property
    def lines(self) -> list[MixingLine]:
        """What the batches came to."""
        return [MixingLine(name=name, change=mixing(torch.cat(x, dim=1))) for name, x in self._changes.items()]
