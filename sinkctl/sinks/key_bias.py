"""A learned key of value 0."""

from typing import Literal

from pydantic import Field

from sinkctl.sinks.base import LayerShape, Sink


class KeyBias(Sink):
    """A key k* a key/value head that every query sees, with value 0 (Gu et al. 2024, arXiv 2410.10781: K biases).

    It faces the query before its rotation, so its score does not depend on the position.
    """

    kind: Literal["key_bias"] = "key_bias"
    start: Literal["match", "zero"] = Field(
        "match", description="match: the first token's key, as a full cache presents it; zero: k* = 0, so s = 0."
    )
    bias: bool = Field(True, description="match: add the first token's mean contribution to the output.")

    def begin(self, shape: LayerShape, seen):
        import torch

        from sinkctl.metrics.first_token import constant_part

        if self.start == "zero":
            return {"key": torch.zeros(shape.kv_heads, shape.width)}
        bias = {"bias": constant_part(seen, 1 - seen.mass_HN)} if self.bias else {}
        return {"key": seen.key_GD} | bias
