"""Sigmoid attention."""

from typing import Any, Literal

from pydantic import Field, model_validator

from sinkctl.sinks.weights import Weights


class Sigmoid(Weights):
    """σ(s + b_h), not normalised (Gu et al. 2024, arXiv 2410.10781, b = 0; Ramapuram et al. 2024, arXiv 2409.04431)."""

    kind: Literal["sigmoid"] = "sigmoid"
    normalise: bool = Field(
        False, description="Weights over their sum, with which the first token becomes a sink again (start zero)."
    )

    @model_validator(mode="after")
    def _normalised_has_no_mass_to_match(self) -> "Sigmoid":
        if self.normalise and self.start == "match":
            raise ValueError("normalise: weights sum to 1 whatever b is, so there is no mass to match; take start zero")
        return self

    def stored(self) -> dict[str, Any]:
        return super().stored() | {"normalise": self.normalise}
