"""ALiBi."""

from typing import Literal

from sinkctl.sinks.scratch.base import ScratchSink


class Alibi(ScratchSink):
    """Scores fall by 2^(-8h/H) a token of distance, h = 1 … H (Press et al. 2021, arXiv 2108.12409).

    From scratch alone, with a config whose rotation never turns (`rope_parameters: {rope_type: linear, factor: 1e30}`).
    """

    kind: Literal["alibi"] = "alibi"
