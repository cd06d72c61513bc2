"""A learned key with a learned value."""

from typing import Literal

from pydantic import Field

from sinkctl.sinks.base import LayerShape, Sink


class KVBias(Sink):
    """A key k* and a value v* a key/value head that every query sees (Sun et al. 2024, arXiv 2402.17762; Gu et al.).

    k* faces the query before its rotation. With the first token's own key and value a model streams as if that token
    were kept.
    """

    kind: Literal["kv_bias"] = "kv_bias"
    start: Literal["match", "zero"] = Field(
        "match", description="match: the first token's key and value, as a full cache presents them; zero: both 0."
    )

    def begin(self, shape: LayerShape, seen):
        import torch

        if self.start == "match":
            return {"key": seen.key_GD, "value": seen.value_GE}
        key = torch.zeros(shape.kv_heads, shape.width)
        return {"key": key, "value": torch.zeros(shape.kv_heads, shape.value_width)}
