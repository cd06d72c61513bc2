"""Sigmoid attention."""

from typing import Literal

from sinkctl.sinks.weights import OverSum


class Sigmoid(OverSum):
    """σ(s + b_h), not normalised (Gu et al. 2024, arXiv 2410.10781, b = 0; Ramapuram et al. 2024, arXiv 2409.04431)."""

    kind: Literal["sigmoid"] = "sigmoid"
