"""Which tokens around a block of a stream stay in full in one layer: the first ones, and predicted ones.

Importing this imports no torch.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sinkctl.cache.policies import Keep
from sinkctl.cache.precision.settings import Precision

FREE = -1


class Kept(NamedTuple):
    """Numbers of the tokens, each with the slot that holds it."""

    held: dict[int, int]  # from before the block
    new: dict[int, int]  # the block's own, in order: a later one may take an earlier one's slot
    admitted: tuple[int, ...]  # after the block, by slot of a predicted token: its number, or FREE

    @property
    def numbers(self) -> list[int]:
        """All of them, in order."""
        return sorted(self.held | self.new)

    @property
    def filled(self) -> dict[int, int]:
        """Slots that the block fills, each with the number of the last token to take it."""
        return {slot: number for number, slot in self.new.items()}


def kept(precision: Precision, keep: Keep, seen: int, end: int, admitted: Sequence[int], told: Iterable[int]) -> Kept:
    """Around tokens seen … end−1, of which those numbered `told` are predicted; `admitted` as before the block.

    A token is admitted as it comes, if a slot is free then, and keeps it until it leaves the cache.
    """
    first = precision.kept
    held = {number: number for number in range(min(first, seen))}
    held |= {number: first + slot for slot, number in enumerate(admitted) if number != FREE}
    new, slots = {number: number for number in range(seen, min(first, end))}, list(admitted)
    for number in told:
        if number < first:
            continue
        free = next((slot for slot, other in enumerate(slots) if other == FREE or _left(keep, other, number)), None)
        if free is not None:
            slots[free], new[number] = number, first + free
    return Kept(held, new, tuple(slots))


def _left(keep: Keep, number: int, query: int) -> bool:
    """Whether a token is in the cache no more for a query."""
    return keep.window is not None and number >= keep.sinks and query - number > keep.window
