"""A constant on every head's output: the control that must not work."""

from typing import Literal

from pydantic import Field

from sinkctl.sinks.base import LayerShape, Sink


class ValueBias(Sink):
    """v*_h added to what each head gives (Gu et al. 2024: V biases): takes no attention, so it is no sink."""

    kind: Literal["value_bias"] = "value_bias"
    start: Literal["match", "zero"] = Field(
        "zero",
        description="zero: v* = 0; match: what the outputs lack on average without the first token, which goes (on a "
        "real checkpoint worse than nothing in its place).",
    )

    def begin(self, shape: LayerShape, seen):
        import torch

        from sinkctl.metrics.first_token import constant_part

        if self.start == "zero":
            return {"bias": torch.zeros(shape.heads, shape.value_width)}
        return {"bias": constant_part(seen, torch.ones_like(seen.lse_HN))}
