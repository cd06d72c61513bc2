"""Some layers whole, the others a window behind sinks: what models with layers of two kinds are adapted to."""

from typing import Literal

from pydantic import Field

from sinkctl.cache.policies.base import WINDOW, Keep, Policy, Window
from sinkctl.cache.policies.sink_window import SinkWindow


class PerLayer(Policy):
    """Keep everything in the layers `whole`, the first `sinks` tokens and the last `window` in the others.

    Yu et al. 2025 (SWAA, arXiv 2512.10411) call that `keep_first` and `non_sliding_layers`. Memory grows with the text
    in the whole layers, whose positions are those of the text; it falls by the share of the others.
    """

    kind: Literal["layers"] = "layers"
    whole: tuple[int, ...] = Field(min_length=1, description="Numbers of the layers that keep everything, from 0.")
    sinks: int = Field(4, ge=0, description="Leading tokens never evicted in the others.")
    window: Window = Field("auto", description=WINDOW)

    @property
    def size(self) -> str:
        return f"{self.sinks}+{self.window}, layers {' '.join(map(str, self.whole))} whole"

    @property
    def grows(self) -> bool:
        return True

    def resolve(self, context: int | None) -> tuple["PerLayer", str]:
        """`auto` as a window with sinks has it."""
        settled, reason = self._others.resolve(context)
        return self.model_copy(update={"window": settled.window}), reason

    def keep(self, own_window: int | None, layer: int) -> Keep:
        """What layer number `layer`, trained with `own_window` past keys (None: all), keeps."""
        return Keep(0, own_window) if layer in self.whole else self._others.keep(own_window, layer)

    @property
    def _others(self) -> SinkWindow:
        return SinkWindow(sinks=self.sinks, window=self.window, precision=self.precision)
