"""Softmax off by one."""

from typing import Literal

from pydantic import Field

from sinkctl.sinks.base import LayerShape, Sink


class Softmax1(Sink):
    """e^s / (1 + Σ e^s): a sink logit fixed at 0 (Miller 2023; the zero sink of arXiv 2309.17453)."""

    kind: Literal["softmax1"] = "softmax1"
    start: Literal["match", "zero"] = Field(
        "match",
        description="match: the first token goes, its mean contribution stays as a bias; what of its key hardly turns, "
        "and its value, are also taken from all keys and values; zero: nothing else.",
    )

    @property
    def folds(self) -> bool:
        return self.start == "match"

    def begin(self, shape: LayerShape, seen):
        import torch

        from sinkctl.metrics.first_token import constant_part, folded_start

        logit = {"logit": torch.zeros(shape.heads)}
        if self.start == "zero":
            return logit
        if seen.folded is not None:
            return logit | folded_start(seen, torch.sigmoid(seen.folded.lse_HN))
        return logit | {"bias": constant_part(seen, torch.sigmoid(seen.lse_HN))}
