"""Softmax with another normaliser."""

from typing import Literal

from pydantic import Field

from sinkctl.sinks.scratch.base import ScratchSink


class Normaliser(ScratchSink):
    """α e^s / (Σ e^(p s))^(1/p) (Gu et al. 2024, arXiv 2410.10781): a softmax at α = p = 1. From scratch alone."""

    kind: Literal["normaliser"] = "normaliser"
    alpha: float = Field(1.0, gt=0, description="What the weights of a query sum to, at p = 1.")
    power: float = Field(1.0, gt=0, description="p: it is the p-norm of the weights that is α.")
