"""SiLU of one matrix's product times the other's: what stands between the matrices of a gated MLP."""

from sinkctl.kernels.gate.reference import gated
from sinkctl.kernels.gate.select import IMPLEMENTATIONS, select

__all__ = ["IMPLEMENTATIONS", "gated", "select"]
