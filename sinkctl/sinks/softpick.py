"""Softpick."""

from typing import Literal

from sinkctl.sinks.weights import Weights


class Softpick(Weights):
    """relu(e^s − 1) / Σ |e^s − 1| (Zuhri et al. 2025, arXiv 2504.20966), of scores s + b_h; far up a softmax."""

    kind: Literal["softpick"] = "softpick"
