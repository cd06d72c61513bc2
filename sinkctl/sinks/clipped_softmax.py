"""Clipped softmax."""

from typing import Literal

from pydantic import Field

from sinkctl.sinks.weights import Weights


class ClippedSoftmax(Weights):
    """clip((1 − γ_h)·softmax + γ_h, 0, 1) (Bondarenko et al. 2023, arXiv 2306.12929, ζ = 1): small weights become 0."""

    kind: Literal["clipped_softmax"] = "clipped_softmax"
    alpha: float = Field(4.0, ge=0, description="zero: γ = −alpha / length.")
    length: int = Field(512, ge=1, description="zero: tokens the model attends to.")

    @property
    def parameter(self) -> tuple[str, float]:
        return "gamma", -self.alpha / self.length

    def between(self, seen) -> tuple[float, float]:
        return -1.0, 0.0
