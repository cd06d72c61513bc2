"""A learned key whose value is fixed."""

from typing import Literal

from pydantic import Field

from sinkctl.sinks.scratch.base import LayerShape, ScratchSink


class FixedKVBias(ScratchSink):
    """A key that every query sees, with a value that does not learn (Gu et al. 2024, arXiv 2410.10781).

    There m·v', v' = (1, 0, …, 0), and m·v'', v'' = (1, …, 1)/√E; at m = 0 a key bias. From scratch alone.
    """

    kind: Literal["fixed_kv_bias"] = "fixed_kv_bias"
    direction: Literal["one", "even"] = Field("one", description="Of the value. one: v'; even: v''.")
    norm: float = Field(0.0, ge=0, description="m, the value's length.")
    channels: int | None = Field(
        None, ge=1, description="Channels of the key that learn, the first; the others are 0. None: all."
    )

    def begin(self, shape: LayerShape, seen):
        import torch

        value_GE = torch.zeros(shape.kv_heads, shape.value_width)
        if self.direction == "one":
            value_GE[:, 0] = self.norm
        else:
            value_GE += self.norm * shape.value_width**-0.5
        return {"key": torch.zeros(shape.kv_heads, min(self.channels or shape.width, shape.width)), "value": value_GE}
