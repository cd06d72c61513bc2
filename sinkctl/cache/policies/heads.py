"""Some heads whole, the others a window behind sinks."""

from typing import Literal

from pydantic import Field

from sinkctl.cache.policies.base import WINDOW, Keep, Policy, Window
from sinkctl.cache.policies.sink_window import SinkWindow


class PerHead(Policy):
    """Keep everything in the key/value heads `whole`, the first `sinks` tokens and the last `window` in the others.

    Xiao et al. 2024 (DuoAttention, arXiv 2410.10819) find the whole ones by optimisation; here they are given, or those
    that look farthest by `sinkctl measure`. Memory and time of the others stop growing.
    """

    kind: Literal["heads"] = "heads"
    whole: tuple[tuple[int, int], ...] = Field(
        min_length=1, description="[layer, key/value head] of those that keep everything, both from 0."
    )
    sinks: int = Field(4, ge=0, description="Leading tokens never evicted in the others.")
    window: Window = Field("auto", description=WINDOW)

    @property
    def size(self) -> str:
        return f"{self.sinks}+{self.window}, {len(self.whole)} heads whole"

    @property
    def grows(self) -> bool:
        return True

    def resolve(self, context: int | None) -> tuple["PerHead", str]:
        """`auto` as a window with sinks has it."""
        settled, reason = self.others.resolve(context)
        return self.model_copy(update={"window": settled.window}), reason

    def keep(self, own_window: int | None, layer: int = 0) -> Keep:
        """The most that any head of a layer keeps: what it was trained on, where one is whole."""
        whole = any(number == layer for number, _ in self.whole)
        return Keep(0, own_window) if whole else self.others.keep(own_window, layer)

    def said(self, keep: Keep) -> str:
        what = super().said(keep)
        return (
            what if keep.sinks else f"{what} in some heads, {self.sinks} sinks and the last {self.window} in the others"
        )

    @property
    def others(self) -> SinkWindow:
        """The rule of the heads that are not whole."""
        return SinkWindow(sinks=self.sinks, window=self.window, precision=self.precision)
