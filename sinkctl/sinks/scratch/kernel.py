"""Attention by a kernel."""

from typing import Literal

from pydantic import Field

from sinkctl.sinks.scratch.base import LayerShape, ScratchSink


class Kernel(ScratchSink):
    """φ(q)·φ(k) for e^s, after rotation and over √D (Gu et al. 2024, arXiv 2410.10781). From scratch alone.

    Normalised, weights are over their sum (elu), or over max(|their sum|, 1) where they may be negative. It cannot be
    streamed where φ is no identity, as keys would have to be kept rotated.
    """

    kind: Literal["kernel"] = "kernel"
    form: Literal["elu", "identity", "mlp"] = Field(
        "elu",
        description="φ. elu: elu(x) + 1 (Katharopoulos et al. 2020, arXiv 2006.16236); identity; mlp: W gelu(W' x), a "
        "layer's own, both identities to begin with.",
    )
    normalise: bool = Field(True, description="Whether weights are normalised.")

    def begin(self, shape: LayerShape, seen):
        import torch

        if self.form != "mlp":
            return {}
        return {f"feature.{place}.weight": torch.eye(shape.width) for place in (0, 2)}
