"""Some layers whole, the others a window behind sinks: what models with layers of two kinds are adapted to."""

from typing import Literal

from pydantic import Field

from sinkctl.cache.policies.base import Keep
from sinkctl.cache.policies.partly import PartlyWhole


class PerLayer(PartlyWhole):
    """Keep everything in the layers `whole`, the first `sinks` tokens and the last `window` in the others.

    Yu et al. 2025 (SWAA, arXiv 2512.10411) call that `keep_first` and `non_sliding_layers`. Positions in whole layers
    are those of the text.
    """

    kind: Literal["layers"] = "layers"
    whole: tuple[int, ...] = Field(min_length=1, description="Numbers of the layers that keep everything, from 0.")

    @property
    def size(self) -> str:
        return f"{self.sinks}+{self.window}, layers {' '.join(map(str, self.whole))} whole"

    @property
    def holds_first(self) -> bool:
        return True

    def keep(self, own_window: int | None, layer: int) -> Keep:
        """What layer number `layer`, trained with `own_window` past keys (None: all), keeps."""
        return Keep(0, own_window) if layer in self.whole else self.others.keep(own_window, layer)
