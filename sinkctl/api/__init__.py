"""The Python calls; the command line makes the same ones. Each is imported when it is first asked for."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sinkctl.api.asking import ask
    from sinkctl.api.benchmarks import bench
    from sinkctl.api.conversion import convert
    from sinkctl.api.generation import generate
    from sinkctl.api.measurement import measure
    from sinkctl.api.shared import load
    from sinkctl.api.streams import stream, stream_blocks
    from sinkctl.cache.streaming import streaming

HOMES = {
    "ask": "sinkctl.api.asking",
    "bench": "sinkctl.api.benchmarks",
    "convert": "sinkctl.api.conversion",
    "generate": "sinkctl.api.generation",
    "load": "sinkctl.api.shared",
    "measure": "sinkctl.api.measurement",
    "stream": "sinkctl.api.streams",
    "stream_blocks": "sinkctl.api.streams",
    "streaming": "sinkctl.cache.streaming",
}
__all__ = ["ask", "bench", "convert", "generate", "load", "measure", "stream", "stream_blocks", "streaming"]


def __getattr__(name: str) -> Any:
    if name in HOMES:
        return getattr(import_module(HOMES[name]), name)
    raise AttributeError(f"module 'sinkctl.api' has no attribute {name!r}")
