"""Next-token losses from logits."""

from sinkctl.kernels.losses.reference import losses
from sinkctl.kernels.losses.select import IMPLEMENTATIONS, select

__all__ = ["IMPLEMENTATIONS", "losses", "select"]
