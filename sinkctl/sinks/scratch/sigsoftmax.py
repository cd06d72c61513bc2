"""SigSoftmax."""

from typing import Literal

from sinkctl.sinks.scratch.base import ScratchSink


class SigSoftmax(ScratchSink):
    """e^s σ(s) / Σ e^s σ(s) (Kanai et al. 2018, arXiv 1805.10829): normalised, so it can sink. From scratch alone."""

    kind: Literal["sigsoftmax"] = "sigsoftmax"
