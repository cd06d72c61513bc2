"""A bias on the first token's score."""

from typing import Literal

from pydantic import Field

from sinkctl.sinks.base import LayerShape, Sink


class ScoreBias(Sink):
    """b_h added to the score of a sequence's first token, so that it need not be a massive activation to be a sink.

    It acts where that token is seen: not in a stream that leaves it behind.
    """

    kind: Literal["score_bias"] = "score_bias"
    value: float = Field(0.0, description="b_h to begin with; at 0 the model is what it was.")

    def begin(self, shape: LayerShape, seen):
        import torch

        return {"first": torch.full((shape.heads,), self.value)}
