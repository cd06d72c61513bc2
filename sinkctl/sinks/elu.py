"""ELU attention."""

from typing import Literal

from sinkctl.sinks.weights import OverSum


class Elu(OverSum):
    """elu(s + b_h) + 1, not normalised (Gu et al. 2024, arXiv 2410.10781, b = 0)."""

    kind: Literal["elu"] = "elu"
