"""Attention of a chunk of queries over a band of keys and a strip of sinks, under one softmax."""

from sinkctl.kernels.stream_attention.reference import Strip, stream_attention
from sinkctl.kernels.stream_attention.select import IMPLEMENTATIONS, Implementation, select

__all__ = ["IMPLEMENTATIONS", "Implementation", "Strip", "select", "stream_attention"]
