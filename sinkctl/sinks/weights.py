"""Mechanisms that replace the softmax: how they begin.

Shapes: H query heads, N queries of the record, n of them with whole rows, S keys, E value width.
"""

from typing import Any, Literal

from pydantic import Field, model_validator

from sinkctl.sinks.base import LayerShape, Sink


class Weights(Sink):
    """Weights from scores by something else than a softmax, so that nothing must be attended to."""

    start: Literal["match", "zero"] = Field(
        "match",
        description="match: the parameter at which keys get, on average, what they got beside the first token, and the "
        "mean of what the outputs then lack as a bias; zero: the parameter of the published form.",
    )
    mix: float = Field(1.0, ge=0, le=1, description="λ in (1 − λ)·softmax + λ·this.")

    @property
    def whole_rows(self) -> bool:
        return self.start == "match"

    def begin(self, shape: LayerShape, seen):
        import torch

        name, published = self.parameter
        if self.start == "zero":
            return {name: torch.full((shape.heads,), published)}
        return self._matching(shape, seen, name, *self.between(seen))

    @property
    def parameter(self) -> tuple[str, float]:
        """(name, its published value)"""
        return "offset", 0.0

    def between(self, seen) -> tuple[float, float]:
        """Between which numbers the match lies; weights grow with the parameter."""
        highest = max(float(rows.score_HnS.max()) for rows in seen.rows)
        return -highest - 60.0, 60.0 - float(seen.lse_HN.min())

    def stored(self) -> dict[str, Any]:
        return {"kind": self.kind, "mix": self.mix}

    def _matching(self, shape: LayerShape, seen, name: str, low: float, high: float):
        import torch

        from sinkctl.metrics.first_token import matched
        from sinkctl.sinks.code.sink_attention import AttentionSink

        layer = AttentionSink(
            self.stored() | {"parameters": [name]}, shape.heads, shape.kv_heads, shape.width, shape.hidden
        )
        ends = [rows.first + rows.score_HnS.shape[1] for rows in seen.rows]
        asked = torch.cat([torch.arange(rows.first, end) for rows, end in zip(seen.rows, ends, strict=True)])

        def weights(rows):
            real = rows.score_HnS > -torch.inf
            return layer.weigh(rows.score_HnS.masked_fill(~real, 0.0)[None], real[None])[0]

        def mean_mass(parameter_H):
            getattr(layer, name).copy_(parameter_H)
            return torch.cat([weights(rows).sum(-1) for rows in seen.rows], dim=1).mean(1)

        with torch.no_grad():
            layer.mix = 1.0  # the parameter is that of the mechanism alone, the bias that of the mixture
            found_H = matched(mean_mass, 1 - seen.mass_HN[:, asked].mean(1), low, high)
            getattr(layer, name).copy_(found_H)
            layer.mix = self.mix
            groups = shape.heads // shape.kv_heads
            out_HnE = torch.cat([weights(r) @ r.v_GSE.repeat_interleave(groups, dim=0) for r in seen.rows], dim=1)
        return {name: found_H, "bias": (seen.written_HNE()[:, asked] - out_HnE).mean(1)}


class OverSum(Weights):
    """Weights that may be divided by their sum."""

    normalise: bool = Field(
        False, description="Weights over their sum, with which the first token becomes a sink again (start zero)."
    )

    @model_validator(mode="after")
    def _normalised_has_no_mass_to_match(self) -> "OverSum":
        if self.normalise and self.start == "match":
            raise ValueError("normalise: weights sum to 1 whatever b is, so there is no mass to match; take start zero")
        return self

    def stored(self) -> dict[str, Any]:
        return super().stored() | {"normalise": self.normalise}
