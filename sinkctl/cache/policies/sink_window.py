"""StreamingLLM: attention sinks and a rolling window."""

from typing import Literal

from pydantic import Field

from sinkctl.cache.policies.base import WINDOW, Bounded, Window


class SinkWindow(Bounded):
    """Keep the first `sinks` tokens and the last `window` (Xiao et al. 2023, arXiv 2309.17453)."""

    kind: Literal["sink_window"] = "sink_window"
    sinks: int = Field(4, ge=0, description="Leading tokens never evicted.")
    window: Window = Field("auto", description=WINDOW)

    @property
    def holds_first(self) -> bool:
        return self.sinks > 0
