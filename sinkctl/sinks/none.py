"""No mechanism: the control."""

from typing import Literal

from sinkctl.sinks.base import LayerShape, Sink


class NoSink(Sink):
    """The checkpoint as it is, or, with `bos: drop`, with the first token taken away and nothing in its place."""

    kind: Literal["none"] = "none"

    def begin(self, shape: LayerShape, seen):
        return {}
