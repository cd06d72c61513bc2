"""A rolling window and nothing else: what breaks without sinks."""

from typing import Literal

from pydantic import Field

from sinkctl.cache.policies.base import WINDOW, Bounded, Window


class SlidingWindow(Bounded):
    """Keep the last `window` tokens only; the control of every streaming claim."""

    kind: Literal["window"] = "window"
    sinks: Literal[0] = Field(0, description="None, by definition.")
    window: Window = Field("auto", description=WINDOW)
