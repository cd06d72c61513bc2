"""The Python calls; the command line makes the same ones."""

from sinkctl.api.benchmarks import bench
from sinkctl.api.checkpoints import convert, measure
from sinkctl.api.shared import load
from sinkctl.api.streams import ask, generate, stream, stream_blocks
from sinkctl.cache.streaming import streaming

__all__ = ["ask", "bench", "convert", "generate", "load", "measure", "stream", "stream_blocks", "streaming"]
