"""One layer's keys and values around a block of tokens, in every form in which one of its queries sees them.

Shapes: B rows, G key/value heads, T tokens of the block, S sinks, D and E widths.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sinkctl.cache.policies import Keep
from sinkctl.cache.precision.forms import FOREVER, Form
from sinkctl.cache.precision.kept import Kept
from sinkctl.cache.precision.settings import Precision
from sinkctl.cache.precision.store import Side, put
from sinkctl.kernels.rounded_decode import Store

# (keys, number of the first, or of each) → rotated
Turned = Callable[[Tensor, int | Tensor], Tensor]


class Block:
    """What the queries number seen … end−1 see, and where their own keys and values go."""

    def __init__(
        self, precision: Precision, keep: Keep, store: Store, rows: slice | Tensor, seen: int,
        k_BGTD: Tensor, v_BGTE: Tensor, kept: Kept,
    ):  # fmt: skip
        (self._sinks, self._window), self._kept, self._together = keep, kept, precision.together
        self._kept_K = torch.tensor(kept.numbers, dtype=torch.int64)
        self._recent, self._store, self._rows, self.seen = precision.recent, store, rows, seen
        self._new = k_BGTD, v_BGTE
        common: dict[str, Any] = dict(precision=precision, sinks=keep.sinks, kept_K=self._kept_K)
        self._k = Side(
            store.recent_k_BGFD, store.k, k_BGTD, rows, seen,
            together=precision.together, channels=precision.channels_of_keys, **common,
        )  # fmt: skip
        self._v = Side(store.recent_v_BGFE, store.v, v_BGTE, rows, seen, together=1, channels=precision.group, **common)
        self.end = self._k.end
        # The sinks have left their true distances: they are met at those of the cache.
        self.apart = keep.sinks > 0 and seen >= keep.sinks + keep.window + 1
        first = 0 if keep.window is None else seen - keep.window
        self.oldest = max(keep.sinks, first) if self.apart or not keep.sinks else 0

    def forms(self, turned: Turned) -> list[Form]:
        """All but the sinks that are apart."""
        k, v, together, recent = self._k, self._v, self._together, self._recent
        full_k, rounded_v = turned(k.full, k.done), v.rounded(self.oldest)
        found = []

        def add(keys: Tensor, values: Tensor, first: int, end: int, seen: Callable) -> None:
            number_S = torch.arange(first, end)
            first_S, last_S = seen(number_S, (number_S // together + 1) * together - 1)
            last_S = last_S.masked_fill(torch.isin(number_S, self._kept_K), -1)
            found.append(Form(keys, values, number_S, first_S, last_S))

        add(full_k[:, :, v.done - k.done :], v.full, v.done, self.end, lambda j, _: (j, j + recent))
        if together > 1:  # a value is rounded before the key's group is whole
            held = slice(k.done - self.oldest, None)
            keys, values = full_k[:, :, : v.next - k.done], rounded_v[:, :, held]
            add(keys, values, k.done, v.next, lambda j, end: (j + recent + 1, end + recent))
        if k.next > self.oldest:
            keys, values = turned(k.rounded(self.oldest), self.oldest), rounded_v[:, :, : k.next - self.oldest]
            add(keys, values, self.oldest, k.next, lambda j, end: (end + recent + 1, self._last(j)))
        number_S = self._kept_K[self._kept_K >= self.oldest]
        if len(number_S):
            keys, values = self._in_full(number_S.tolist())
            found.append(Form(turned(keys, number_S), values, number_S, number_S, self._last(number_S)))
        return found

    def sinks(self) -> tuple[Tensor, Tensor]:
        """Keys, un-rotated, and values of the sinks that are apart, which are rounded by then: [B, G, S, width]."""
        sinks, found = self._sinks, []
        own = [number for number in self._kept.numbers if number < sinks]
        for side, together, full in zip((self._k, self._v), (self._together, 1), self._in_full(own), strict=True):
            held = side.groups(0, -(-sinks // together))[:, :, :sinks]
            held[:, :, own] = full
            found.append(held)
        return tuple(found)

    def take(self, rows_B: Tensor) -> None:
        """Put the block's tokens where they belong; `rows_B` are the rows' numbers."""
        self._k.take(rows_B)
        self._v.take(rows_B)
        if filled := self._kept.filled:
            slots, own = torch.tensor(list(filled), device=rows_B.device), [n - self.seen for n in filled.values()]
            for buffer, new in zip((self._store.kept_k_BGKD, self._store.kept_v_BGKE), self._new, strict=True):
                put(buffer, rows_B, slots, new[:, :, own])

    def _in_full(self, numbers: list[int]) -> tuple[Tensor, Tensor]:
        """Keys and values of some of those kept in full, whose numbers ascend."""
        held = [self._kept.held[number] for number in numbers if number < self.seen]
        own = [number - self.seen for number in numbers if number >= self.seen]
        buffers = self._store.kept_k_BGKD, self._store.kept_v_BGKE
        return tuple(
            torch.cat([buffer[self._rows][:, :, held], new[:, :, own]], dim=2)
            for buffer, new in zip(buffers, self._new, strict=True)
        )

    def _last(self, number_S: Tensor) -> Tensor:
        """The last query for which the cache still holds a token."""
        if self._window is None:
            return torch.full_like(number_S, FOREVER)
        return torch.where(number_S < self._sinks, FOREVER, number_S + self._window)
