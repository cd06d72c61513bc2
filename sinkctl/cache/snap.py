"""The KV cache that is cut once a prompt has ended, by what its last queries attend to, each key/value head its own.

A prompt is taken in whole. `prompt` says, before one comes, how many tokens it has: its last `observe` queries are
watched, however it is cut into blocks. Positions are counted in the cache, as `EvictingCache` has them.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import max_pool1d

from sinkctl.cache.blocks import beside, implementation
from sinkctl.cache.evicting import NAME, EvictingCache, Held
from sinkctl.cache.policies import Snap
from sinkctl.model.handler import AttentionCall
from sinkctl.model.probe import LayerFacts

PROMPTS = "prompts."


class SnapCache(EvictingCache):
    """Holds `rows` streams under `snap`, and answers the attention layers of an attached model."""

    policy: Snap

    def __init__(self, layers: Sequence[LayerFacts], policy: Snap, rows: int = 1):
        super().__init__(layers, policy, rows)
        # By row, of every prompt so far: the first of the queries that are watched, and its end. All of them, as a
        # stream may have to be taken in again (see `growth.py`).
        self._prompts: list[list[tuple[int, int]]] = [[] for _ in range(rows)]
        self._chosen = list(map(implementation, layers))

    @property
    def implementations(self) -> dict[str, str]:
        """Names of the attention implementations in use, each with its reason."""
        plain = {NAME: "what the last queries of a prompt attend to decides what is kept of it"}
        return {implementation.name: why for implementation, why in self._chosen} | plain

    block_implementations = implementations

    def prompt(self, tokens: Sequence[int]) -> None:
        """Say that the next tokens, so many a row, are a prompt."""
        for prompts, seen, count in zip(self._prompts, self.seen, tokens, strict=True):
            prompts.append((seen + max(0, count - self.policy.last), seen + count))

    def select(self, rows: Tensor) -> None:
        """Make row i continue what was row rows[i]."""
        super().select(rows)
        self._prompts = [list(self._prompts[row]) for row in rows.tolist()]

    def state(self) -> dict[str, Tensor]:
        """What continues the streams, with `seen`: by layer, row and part; and where prompts ended."""
        ends = {f"{PROMPTS}{row}": torch.tensor(found).view(-1, 2) for row, found in enumerate(self._prompts)}
        return super().state() | ends

    def restore(self, state: dict[str, Tensor], seen: int | Sequence[int]) -> None:
        """Continue from `state`."""
        super().restore(state, seen)
        self._prompts = [
            [tuple(map(int, pair)) for pair in state[f"{PROMPTS}{row}"].tolist()] for row in range(len(self.seen))
        ]

    def _pieces(self, row: int, tokens: int) -> Iterator[tuple[int, int]]:
        """Cuts of the next tokens: at a prompt's end, and where its watched queries begin."""
        seen = self.seen[row]
        places = {place - seen for prompt in self._to_come(row, seen) for place in prompt}
        cuts = sorted({0, tokens} | {place for place in places if 0 < place < tokens})
        return pairwise(cuts)

    def _answer(self, index: int, row: int, call: AttentionCall, held: Held, seen: int) -> tuple[Tensor, Tensor]:
        if any(first < seen for first, _ in self._to_come(row, seen)[:1]):
            return super()._answer(index, row, call, held, seen)
        q, k = self._turned(index, row, call, held.k)
        strip, own = beside(None, call)
        out_BHTE = self._chosen[index][0](
            q, k, held.v, scale=call.scale, window=self._facts[index].window, strip=strip,
            sink_logit_H=call.sink_logit_H, softcap=call.softcap, slope_H=call.slope_H, **own,
        )  # fmt: skip
        return out_BHTE, held.got

    def _due(self, row: int, seen: int) -> bool:
        return any(seen == end for _, end in self._to_come(row, seen)[:1])

    def _to_come(self, row: int, seen: int) -> list[tuple[int, int]]:
        """The prompts that end after so many tokens of a row, or later."""
        return self._prompts[row][bisect_left(self._prompts[row], seen, key=lambda prompt: prompt[1]) :]

    def _best(self, got_BGM: Tensor, kept: int, index: int, seen: int) -> Tensor:
        """Those that got most, each counting as the best of `pool` neighbours; of equals those that themselves did."""
        own_BGM = got_BGM.sort(dim=-1, descending=True, stable=True).indices
        pooled_BGM = max_pool1d(got_BGM, self.policy.pool, stride=1, padding=self.policy.pool // 2)
        order_BGM = pooled_BGM.gather(-1, own_BGM).sort(dim=-1, descending=True, stable=True).indices
        return own_BGM.gather(-1, order_BGM[..., :kept])

    def _left(self, held: Held) -> Held:
        """The next prompt's queries choose anew."""
        return Held(held.k, held.v, torch.zeros_like(held.got))
