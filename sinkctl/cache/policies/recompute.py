"""The sliding window with recomputation: slow, and the quality to reach."""

from typing import Literal

from pydantic import Field

from sinkctl.cache.policies.base import WINDOW, Bounded, Window


class Recompute(Bounded):
    """Re-encode the last `sinks + window + 1` tokens for every token, without a cache (the baseline of the 22.2×).

    Where the model uses a BOS token it takes the place of the first of them.
    """

    kind: Literal["recompute"] = "recompute"
    sinks: int = Field(4, ge=0, description="Counted into the length that is re-encoded; nothing is kept.")
    window: Window = Field("auto", description=WINDOW)
    precision: None = Field(None, description="Nothing is kept that could be rounded.")
    every: int = Field(1, ge=1, description="Score one token in this many; the others are left out.")

    @property
    def size(self) -> str:
        return f"recompute {self.sinks}+{self.window}"
