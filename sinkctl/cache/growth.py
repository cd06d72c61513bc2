"""What lets the streams of a ring outgrow the rotary frequencies they began with (see `model/lengths.py`).

Shapes: B rows, T tokens of a piece, C hidden width.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor

from sinkctl.cache.select import Ring
from sinkctl.model.lengths import Lengths, Stage


class Growth:
    """Turns each row of a ring by the frequencies of its length, and keeps what rows took in while these may change."""

    def __init__(self, ring: Ring, lengths: Lengths):
        self._ring, self._lengths = ring, lengths
        self._fed: list[tuple[Tensor, Tensor]] = []
        self._stages: list[Stage] = []
        self._turn_for(ring.seen)

    def lengthen(self, tokens: Sequence[int], size: int | None) -> list[tuple[Tensor, Tensor]] | None:
        """Before rows grow by so many tokens: what has to go through the model again first, as `add` was given it.

        It comes in pieces of `size` tokens (None: whole). None, as nearly always, where rows go on turning as they did.
        """
        if self.settled:
            return None
        if not self._turn_for([seen + new for seen, new in zip(self._ring.seen, tokens, strict=True)]):
            return None
        self._ring.restart()
        again = list(self._pieces(size))
        self._fed = [] if self.settled else self._fed
        return again

    def add(self, inputs: Tensor, real_BT: Tensor) -> None:
        """Note what rows take in: ids [B, T] or embeddings [B, T, C], and which of it is no padding."""
        if not self.settled:
            self._fed.append((inputs, real_BT.bool()))

    def select(self, rows: Tensor) -> None:
        """Make row i continue what was row rows[i]."""
        self._fed = [tuple(x[rows.to(x.device)] for x in part) for part in self._fed]
        self._turn_for(self._ring.seen)

    def state(self) -> dict[str, Tensor]:
        """What continues it, of ids alone."""
        return dict(zip(("ids", "real"), *self._pieces(None), strict=True)) if self._fed else {}

    def restore(self, state: dict[str, Tensor], seen: Sequence[int]) -> bool:
        """Continue from `state`, for rows that have seen so many tokens; whether they turn otherwise than before."""
        self._fed = [(state["ids"], state["real"])] if state else []
        return self._turn_for(seen)

    @property
    def settled(self) -> bool:
        """Whether rows turn to their end as they do."""
        return all(stage.end is None for stage in self._stages)

    def _turn_for(self, lengths: Sequence[int]) -> bool:
        """Whether that changes how some row turns."""
        before, self._stages = self._stages, [self._lengths.of(max(1, length)) for length in lengths]
        by_stage = {stage: [facts.rotation for facts in stage.layers] for stage in self._stages}
        self._ring.rotations = [by_stage[stage] for stage in self._stages]
        return self._stages != before

    def _pieces(self, size: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        for _, alike in groupby(self._fed, key=lambda part: part[0].dim()):
            whole = [torch.cat([x.to(parts[-1].device) for x in parts], dim=1) for parts in zip(*alike, strict=True)]
            yield from zip(*(x.split(size or x.shape[1], dim=1) for x in whole), strict=True)
