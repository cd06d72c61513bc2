"""Caches that are told where prompts are, and the one whose windows hold for the tokens of prompts alone.

Before tokens of a prompt come, `prompt` says so; nothing depends on how they are cut into blocks. What is held, and at
which positions, is as in `EvictingCache`.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from sinkctl.cache.blocks import beside, implementation, until_full
from sinkctl.cache.evicting import EvictingCache, Held
from sinkctl.cache.policies import PerLayer, Snap
from sinkctl.kernels.stream_attention import Strip
from sinkctl.model.handler import AttentionCall
from sinkctl.model.positions import rotate
from sinkctl.model.probe import LayerFacts

PROMPTS = "prompts."
Span = tuple[int, int]


class PromptCache(EvictingCache):
    """Holds `rows` streams, and remembers spans of them in which attention is not that of the rest."""

    def __init__(self, layers: Sequence[LayerFacts], policy: Snap | PerLayer, rows: int = 1):
        super().__init__(layers, policy, rows)
        # By row; all of them, as a stream may have to be taken in again (see `growth.py`).
        self._spans: list[list[Span]] = [[] for _ in range(rows)]
        self._chosen = list(map(implementation, layers))

    @property
    def implementations(self) -> dict[str, str]:
        """Names of the attention implementations in use, each with its reason."""
        return {implementation.name: why for implementation, why in self._chosen}

    @property
    def block_implementations(self) -> dict[str, str]:
        """The same: a token goes through as blocks do."""
        return self.implementations

    def prompt(self, tokens: Sequence[int], ends: bool) -> None:
        """Say that the next tokens, so many a row, belong to a prompt, and whether it ends with them."""
        raise NotImplementedError

    def select(self, rows: Tensor) -> None:
        """Make row i continue what was row rows[i]."""
        super().select(rows)
        self._spans = [list(self._spans[row]) for row in rows.tolist()]

    def state(self) -> dict[str, Tensor]:
        """What continues the streams, with `seen`: by layer, row and part; and the spans of each row."""
        spans = {f"{PROMPTS}{row}": torch.tensor(own).view(-1, 2) for row, own in enumerate(self._spans)}
        return super().state() | spans

    def restore(self, state: dict[str, Tensor], seen: int | Sequence[int]) -> None:
        """Continue from `state`."""
        super().restore(state, seen)
        rows = range(len(self.seen))
        self._spans = [[tuple(map(int, pair)) for pair in state[f"{PROMPTS}{row}"].tolist()] for row in rows]

    def _pieces(self, row: int, tokens: int) -> Iterator[Span]:
        """Cuts of the next tokens where spans begin and end."""
        seen = self.seen[row]
        places = {place - seen for span in self._from(row, seen) for place in span}
        return pairwise(sorted({0, tokens} | {place for place in places if 0 < place < tokens}))

    def _from(self, row: int, seen: int) -> list[Span]:
        """The spans that end after so many tokens of a row, or later."""
        return self._spans[row][bisect_left(self._spans[row], seen, key=lambda span: span[1]) :]

    def _within(self, row: int, seen: int) -> bool:
        """Whether token number `seen` of a row is in a span."""
        return any(first < seen for first, _ in self._from(row, seen)[:1])

    def _answer(self, index: int, row: int, call: AttentionCall, held: Held, seen: int) -> tuple[Tensor, Tensor]:
        """Over everything held, as the layer was trained."""
        q, k = self._turned(index, row, call, held.k)
        return self._attended(index, call, q, k, held.v, self._facts[index].window, None), held.got

    def _attended(
        self, index: int, call: AttentionCall, q: Tensor, k: Tensor, v: Tensor, window: int | None, strip: Strip | None
    ) -> Tensor:
        strip, own = beside(strip, call)
        return self._chosen[index][0](
            q, k, v, scale=call.scale, window=window, strip=strip, sink_logit_H=call.sink_logit_H,
            softcap=call.softcap, slope_H=call.slope_H, **own,
        )  # fmt: skip


class PrefillWindows(PromptCache):
    """Keeps everything; in `layers` that are not whole, tokens of prompts see sinks and a window, later ones all."""

    policy: PerLayer

    def prompt(self, tokens: Sequence[int], ends: bool) -> None:
        """Say that the next tokens, so many a row, belong to a prompt."""
        for spans, seen, count in zip(self._spans, self.seen, tokens, strict=True):
            spans.append((seen, seen + count))

    def _pieces(self, row: int, tokens: int) -> Iterator[Span]:
        """Cut too where sinks leave their true distances."""
        filled = {until_full(keep, self.seen[row]) for keep in self._keeps if keep.window is not None}
        cuts = {place for piece in super()._pieces(row, tokens) for place in piece}
        return pairwise(sorted(cuts | {place for place in filled if 0 < place < tokens}))

    def _answer(self, index: int, row: int, call: AttentionCall, held: Held, seen: int) -> tuple[Tensor, Tensor]:
        (sinks, window), tokens = self._keeps[index], call.q_BHTD.shape[2]
        free = not self._shortened(index) or not self._within(row, seen)
        if free or until_full(self._keeps[index], seen - tokens):
            return super()._answer(index, row, call, held, seen)
        q, k, v = *self._turned(index, row, call, held.k), held.v
        strip = None
        if sinks:
            rotation = self.rotations[row][index]
            table = rotation and rotation.table(range(-sinks - window, -window), k)
            facing, distance_N = rotate(held.k[:, :, :sinks], rotation, table), None
            if call.slope_H is not None:
                distance_N = torch.arange(sinks + window, window, -1, device=q.device)
            strip = Strip(call.q_BHTD, facing, v[:, :, :sinks], distance_N)
            k, v = (x[:, :, -window - tokens :] for x in (k, v))
        return self._attended(index, call, q, k, v, window, strip), held.got

    def _due(self, row: int, seen: int) -> bool:
        return False
