"""Causal attention with a sink logit, for training: one more outcome of the softmax, forward and backward."""

from sinkctl.kernels.sink_attention.reference import sink_attention
from sinkctl.kernels.sink_attention.select import IMPLEMENTATIONS, select

__all__ = ["IMPLEMENTATIONS", "select", "sink_attention"]
