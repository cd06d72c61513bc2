"""Some heads whole, the others a window behind sinks."""

from typing import Literal

from pydantic import Field

from sinkctl.cache.policies.base import Keep
from sinkctl.cache.policies.partly import PartlyWhole


class PerHead(PartlyWhole):
    """Keep everything in the key/value heads `whole`, the first `sinks` tokens and the last `window` in the others.

    Xiao et al. 2024 (DuoAttention, arXiv 2410.10819) find the whole ones by optimisation; here they are given, or those
    that look farthest by `sinkctl measure`.
    """

    kind: Literal["heads"] = "heads"
    whole: tuple[tuple[int, int], ...] = Field(
        min_length=1, description="[layer, key/value head] of those that keep everything, both from 0."
    )

    @property
    def size(self) -> str:
        return f"{self.sinks}+{self.window}, {len(self.whole)} heads whole"

    def keep(self, own_window: int | None, layer: int) -> Keep:
        """The most that any head of a layer keeps: what it was trained on, where one is whole."""
        whole = any(number == layer for number, _ in self.whole)
        return Keep(0, own_window) if whole else self.others.keep(own_window, layer)

    def said(self, keep: Keep) -> str:
        what, others = super().said(keep), f"{self.sinks} sinks and the last {self.window} in the others"
        return what if keep.sinks else f"{what} in some heads, {others}"
