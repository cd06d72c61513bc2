"""Cache policies: one a file, one line here. Recipes, `--policy`, the JSON Schema and errors read this union."""

from typing import Annotated

from pydantic import Field

from sinkctl.cache.policies.base import Bounded, Keep, Policy
from sinkctl.cache.policies.dense import Dense
from sinkctl.cache.policies.evicting import Evicting, HeavyHitter, RandomKept
from sinkctl.cache.policies.heads import PerHead
from sinkctl.cache.policies.layers import PerLayer
from sinkctl.cache.policies.recompute import Recompute
from sinkctl.cache.policies.sink_window import SinkWindow
from sinkctl.cache.policies.snap import Snap
from sinkctl.cache.policies.window import SlidingWindow

AnyPolicy = Annotated[
    SinkWindow | SlidingWindow | Dense | Recompute | HeavyHitter | RandomKept | Snap | PerLayer | PerHead,
    Field(discriminator="kind"),
]

__all__ = [
    "AnyPolicy",
    "Bounded",
    "Dense",
    "Evicting",
    "HeavyHitter",
    "Keep",
    "PerHead",
    "PerLayer",
    "Policy",
    "RandomKept",
    "Recompute",
    "SinkWindow",
    "SlidingWindow",
    "Snap",
]
