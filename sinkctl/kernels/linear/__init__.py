"""x Wᵀ + b of a linear layer."""

from sinkctl.kernels.linear.select import IMPLEMENTATIONS, select

__all__ = ["IMPLEMENTATIONS", "select"]
