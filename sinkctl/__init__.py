"""Attention sinks in Transformers: stream past the context, in constant memory, exactly; measure checkpoints."""

from typing import TYPE_CHECKING, Any

from sinkctl.registration import register_when_imported

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "ask",
    "bench",
    "convert",
    "generate",
    "load",
    "measure",
    "stream",
    "stream_blocks",
    "streaming",
]

if TYPE_CHECKING:
    from sinkctl.api import ask, bench, convert, generate, load, measure, stream, stream_blocks, streaming


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    """Import the public functions on first use: `import sinkctl` imports no torch."""
    if name in __all__:
        from sinkctl import api

        return getattr(api, name)
    raise AttributeError(f"module 'sinkctl' has no attribute {name!r}")


register_when_imported()
