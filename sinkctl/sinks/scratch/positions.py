"""Positions that are added to embeddings."""

import math
from typing import Literal

from pydantic import Field

from sinkctl.sinks.scratch.base import LayerShape, ScratchSink

SPREAD = 0.02  # of embeddings as they are drawn


class Positions(ScratchSink):
    """A vector a position, added to what the first layer gets. From scratch alone; such a model cannot be streamed.

    It takes a config whose rotation never turns (`rope_parameters: {rope_type: linear, factor: 1e30}`).
    """

    kind: Literal["positions"] = "positions"
    form: Literal["learned", "sinusoidal"] = Field(
        "learned",
        description="learned: from sinusoids on; sinusoidal: as in Vaswani et al. 2017 (arXiv 1706.03762), as long as "
        "embeddings are at first.",
    )
    length: int = Field(512, ge=1, description="Positions there are.")

    def begin(self, shape: LayerShape, seen):
        import torch

        rate_n = torch.exp(-math.log(10_000) * torch.arange(0, shape.hidden, 2) / shape.hidden)
        angle_Tn = torch.arange(self.length)[:, None] * rate_n
        wave_TC = torch.stack([angle_Tn.sin(), angle_Tn.cos()], dim=-1).flatten(1)[:, : shape.hidden]
        return {"position": SPREAD * math.sqrt(2) * wave_TC}

    def starts(self, shapes):
        return [self.begin(shapes[0], None), *[None] * (len(shapes) - 1)]
