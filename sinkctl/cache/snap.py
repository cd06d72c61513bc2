"""The KV cache that is cut once a prompt has ended, by what its last queries attend to, each key/value head its own.

A prompt is taken in whole; its last `observe` queries are watched, however it is cut into blocks.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import max_pool1d

from sinkctl.cache.evicting import NAME, EvictingCache, Held
from sinkctl.cache.policies import Snap
from sinkctl.cache.prompts import PromptCache
from sinkctl.model.handler import AttentionCall


class SnapCache(PromptCache):
    """Holds `rows` streams under `snap`, and answers the attention layers of an attached model."""

    policy: Snap

    @property
    def implementations(self) -> dict[str, str]:
        """Names of the attention implementations in use, each with its reason."""
        return super().implementations | {NAME: "what a prompt's last queries attend to decides what is kept of it"}

    def prompt(self, tokens: Sequence[int], ends: bool) -> None:
        """Say that the next tokens, so many a row, belong to a prompt, and whether it ends with them."""
        for spans, seen, count in zip(self._spans, self.seen, tokens, strict=True):
            if ends:
                spans.append((seen + max(0, count - self.policy.last), seen + count))

    def _answer(self, index: int, row: int, call: AttentionCall, held: Held, seen: int) -> tuple[Tensor, Tensor]:
        if self._within(row, seen):  # a query that is watched
            return EvictingCache._answer(self, index, row, call, held, seen)
        return super()._answer(index, row, call, held, seen)

    def _due(self, row: int, seen: int) -> bool:
        return any(seen == end for _, end in self._from(row, seen)[:1])

    def _best(self, got_BGM: Tensor, kept: int, index: int, seen: int) -> Tensor:
        """Those that got most, each counting as the best of `pool` neighbours; of equals those that themselves did."""
        own_BGM = got_BGM.sort(dim=-1, descending=True, stable=True).indices
        pooled_BGM = max_pool1d(got_BGM, self.policy.pool, stride=1, padding=self.policy.pool // 2)
        order_BGM = pooled_BGM.gather(-1, own_BGM).sort(dim=-1, descending=True, stable=True).indices
        return own_BGM.gather(-1, order_BGM[..., :kept])

    def _left(self, held: Held) -> Held:
        """The next prompt's queries choose anew."""
        return Held(held.k, held.v, torch.zeros_like(held.got))
