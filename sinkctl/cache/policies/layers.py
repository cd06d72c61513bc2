"""Some layers whole, the others a window behind sinks: what models with layers of two kinds are adapted to."""

from typing import Literal

from pydantic import Field

from sinkctl.cache.policies.base import Keep
from sinkctl.cache.policies.partly import PartlyWhole
from sinkctl.errors import UsageError


class PerLayer(PartlyWhole):
    """Keep everything in the layers `whole`, the first `sinks` tokens and the last `window` in the others.

    Yu et al. 2025 (SWAA, arXiv 2512.10411) call that `keep_first` and `non_sliding_layers`, and `prompts_only`
    `force_fa_decode`. Positions in whole layers are those of the text.
    """

    kind: Literal["layers"] = "layers"
    whole: tuple[int, ...] = Field(min_length=1, description="Numbers of the layers that keep everything, from 0.")
    prompts_only: bool = Field(
        False, description="The others keep everything too, and only what a prompt's tokens see is sinks and window."
    )

    @property
    def size(self) -> str:
        where = " in prompts" if self.prompts_only else ""
        return f"{self.sinks}+{self.window}{where}, layers {' '.join(map(str, self.whole))} whole"

    @property
    def holds_first(self) -> bool:
        return True

    @property
    def needs_prompts(self) -> bool:
        return self.prompts_only

    @property
    def for_texts(self) -> str:
        return "layers without prompts_only"

    def check(self) -> None:
        """UsageError for what does not go together."""
        super().check()
        if self.prompts_only and (self.precision is not None or self.redistribute is not None):
            flag = "--kv" if self.precision is not None else "--redistribute"
            raise UsageError(f"{flag}: not with layers whose windows are for prompts only; leave prompts_only out")

    def keep(self, own_window: int | None, layer: int) -> Keep:
        """What layer number `layer`, trained with `own_window` past keys (None: all), keeps."""
        return Keep(0, own_window) if layer in self.whole else self.others.keep(own_window, layer)

    def said(self, keep: Keep) -> str:
        if keep.window is None or not self.prompts_only:
            return super().said(keep)
        return f"keeps everything; in a prompt sees {keep.sinks} sinks and the last {keep.window}"
