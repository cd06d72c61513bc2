"""The Python calls; the command line makes the same ones. Each is imported when it is first asked for."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sinkctl.api.benchmarks import bench
    from sinkctl.api.checkpoints import convert, measure
    from sinkctl.api.shared import load
    from sinkctl.api.streams import ask, generate, stream, stream_blocks
    from sinkctl.cache.streaming import streaming

HOMES = {
    "ask": "sinkctl.api.streams",
    "bench": "sinkctl.api.benchmarks",
    "convert": "sinkctl.api.checkpoints",
    "generate": "sinkctl.api.streams",
    "load": "sinkctl.api.shared",
    "measure": "sinkctl.api.checkpoints",
    "stream": "sinkctl.api.streams",
    "stream_blocks": "sinkctl.api.streams",
    "streaming": "sinkctl.cache.streaming",
}
__all__ = ["ask", "bench", "convert", "generate", "load", "measure", "stream", "stream_blocks", "streaming"]


def __getattr__(name: str) -> Any:
    if name in HOMES:
        return getattr(import_module(HOMES[name]), name)
    raise AttributeError(f"module 'sinkctl.api' has no attribute {name!r}")
