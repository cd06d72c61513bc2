"""Attention of one new token a row over a static ring of keys and its sinks."""

from sinkctl.kernels.decode_attention.reference import Ring, Turn, decode_attention
from sinkctl.kernels.decode_attention.select import IMPLEMENTATIONS, select

__all__ = ["IMPLEMENTATIONS", "Ring", "Turn", "decode_attention", "select"]
