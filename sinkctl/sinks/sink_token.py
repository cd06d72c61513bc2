"""A token that stands in front of every text."""

from typing import Literal

from pydantic import Field

from sinkctl.sinks.base import LayerShape, Sink


class SinkToken(Sink):
    """A vocabulary row that the tokenizer puts first (the learnable sink of arXiv 2309.17453, §3.3)."""

    kind: Literal["sink_token"] = "sink_token"
    token: str = Field("<|sink|>", min_length=1, description="The token as the tokenizer writes it.")
    start: Literal["match", "mean"] = Field(
        "match",
        description="Its embedding. match: that of the BOS token where the tokenizer uses one, else of the token under "
        "which a text is predicted best; mean: the mean of all.",
    )

    @property
    def measured(self) -> bool:
        return False

    def begin(self, shape: LayerShape, seen):
        return {}
