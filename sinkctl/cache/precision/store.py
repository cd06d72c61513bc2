"""What is held of a layer whose keys and values are rounded, around a block of tokens (`Store` says where).

Shapes: B rows, G key/value heads, F recent slots, N slots of groups, t tokens that are rounded together, K kept tokens,
T tokens, D and E widths.
"""

import torch
from torch import Tensor

from sinkctl.cache.precision.settings import Precision
from sinkctl.kernels.rounded_decode import Store
from sinkctl.kernels.rounded_decode.quantize import Rounded, dequantize, quantize
from sinkctl.model.probe import LayerFacts


def empty(facts: LayerFacts, precision: Precision, rows: int, sinks: int, window: int) -> Store:
    """Room for the sinks and a window, with nothing in it."""
    kept = precision.kept + precision.slots(facts.number)
    like = dict(dtype=facts.dtype, device=facts.device)

    def full(slots: int, width: int) -> Tensor:
        return torch.zeros(rows, facts.kv_heads, slots, width, **like)

    def rounded(tokens: int, width: int, channels: int | None) -> Rounded:
        slots = groups(sinks, tokens) + groups(window - precision.recent, tokens)
        one = quantize(torch.zeros(tokens, width, **like), precision.bits, channels)
        return Rounded(*(x.expand(rows, facts.kv_heads, slots, *x.shape).clone() for x in one))

    return Store(
        full(precision.recent + precision.together, facts.width),
        full(precision.recent + 1, facts.value_width),
        *rounded(precision.together, facts.width, precision.channels_of_keys),
        *rounded(1, facts.value_width, precision.group),
        full(kept, facts.width),
        full(kept, facts.value_width),
    )


def grown(store: Store, precision: Precision, tokens: int) -> Store:
    """The same with room for so many tokens, where no group ever makes room for another."""
    old = tokens - precision.recent
    longer = {}
    for names, slots in ((Store._fields[2:5], groups(old, precision.together)), (Store._fields[5:8], old)):
        for name in names:
            x = getattr(store, name)
            if slots > x.shape[2]:
                longer[name] = torch.cat([x, x.new_zeros(*x.shape[:2], slots - x.shape[2], *x.shape[3:])], dim=2)
    return store._replace(**longer)


def groups(tokens: int, together: int) -> int:
    """How many groups hold so many tokens."""
    return -(-tokens // together)


class Side:
    """Keys, or values, of a layer around a block of tokens of rows that stand at the same place: held and new."""

    def __init__(
        self, recent_BGFD: Tensor, held: Rounded, new_BGTD: Tensor, rows: slice | Tensor, seen: int, *,
        precision: Precision, together: int, channels: int | None, sinks: int, kept_K: Tensor,
    ):  # fmt: skip
        """`seen` tokens were before; groups of `together` tokens are rounded as `quantize` does by `channels`.

        `kept_K`: numbers of those that stay in full.
        """
        self._recent, self._held, self._rows, self._seen = recent_BGFD, held, rows, seen
        self._bits, self._together, self._fixed = precision.bits, together, groups(sinks, together)
        self.end = seen + new_BGTD.shape[2]
        self.done, self.next = (precision.rounded(n, together) for n in (seen, self.end))  # tokens that are rounded
        slots = torch.arange(self.done, seen) % recent_BGFD.shape[2]
        self.full = torch.cat([recent_BGFD[rows][:, :, slots.to(new_BGTD.device)], new_BGTD], dim=2)  # done … end−1
        self._fresh = None
        if self.next > self.done:
            x = self.full[:, :, : self.next - self.done].unflatten(2, (-1, together))
            ignored = None
            if channels is None and bool((kept_K >= self.done).any()):
                number = torch.arange(self.done, self.next)
                ignored = torch.isin(number, kept_K).to(x.device).unflatten(0, (-1, together))
            self._fresh = quantize(x, self._bits, channels, ignored)

    def rounded(self, first: int) -> Tensor:
        """Tokens first … next−1 as they are rounded."""
        group = first // self._together
        held = self.groups(group, self.done // self._together)
        parts = [held, dequantize(self._fresh, self._bits).flatten(2, 3)] if self._fresh is not None else [held]
        return torch.cat(parts, dim=2)[:, :, first - group * self._together :]

    def groups(self, first: int, end: int) -> Tensor:
        """The tokens of some groups that are held, in order."""
        slots = self._slots(first, end)
        return dequantize(Rounded(*(x[self._rows][:, :, slots] for x in self._held)), self._bits).flatten(2, 3)

    def take(self, rows_B: Tensor) -> None:
        """Put the block where it belongs; `rows_B` are the rows' numbers."""
        first = max(self._seen, self.end - self._recent.shape[2])
        slots = torch.arange(first, self.end) % self._recent.shape[2]
        put(self._recent, rows_B, slots.to(rows_B.device), self.full[:, :, first - self.done :])
        if self._fresh is None:
            return
        begun, end = self.done // self._together, self.next // self._together
        turning = self._held.codes.shape[2] - self._fixed
        for first, last in ((begun, min(end, self._fixed)), (max(begun, self._fixed, end - turning), end)):
            if last > first:
                for buffer, new in zip(self._held, self._fresh, strict=True):
                    put(buffer, rows_B, self._slots(first, last), new[:, :, first - begun : last - begun])

    def _slots(self, first: int, end: int) -> Tensor:
        group, turning = torch.arange(first, end), self._held.codes.shape[2] - self._fixed
        slots = torch.where(group < self._fixed, group, self._fixed + (group - self._fixed) % turning)
        return slots.to(self._held.codes.device)


def put(buffer: Tensor, rows_B: Tensor, slots: Tensor, new: Tensor) -> None:
    """Tokens of rows into slots."""
    buffer[rows_B[:, None], :, slots[None]] = new.transpose(1, 2)
