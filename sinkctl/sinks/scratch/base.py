"""What mechanisms for training from scratch share."""

from typing import ClassVar

from sinkctl.sinks.base import LayerShape, Sink


class ScratchSink(Sink):
    """For recipes with `scratch` alone: no checkpoint computes what it did, or nearly so, when it begins with it."""

    from_scratch: ClassVar[bool] = True

    def begin(self, shape: LayerShape, seen):
        return {}

    def stored(self):
        return {"kind": self.kind} | self.model_dump(mode="json", exclude={"kind", "bos"})
