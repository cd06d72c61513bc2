"""What a run ran on: written to `env.json`, printed by `sinkctl doctor`."""

import importlib.metadata
import os
import platform
import sys
from typing import Any

from sinkctl import __version__

LIBRARIES = ("torch", "transformers", "tokenizers", "accelerate", "safetensors", "numpy", "pydantic", "typer", "triton")


def environment() -> dict[str, Any]:
    """Versions, processor and accelerators, as plain data."""
    import torch

    devices = [
        {
            "name": properties.name,
            "memory_bytes": properties.total_memory,
            "capability": f"{properties.major}.{properties.minor}",
        }
        for properties in map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    ]
    return {
        "sinkctl": __version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "cuda": torch.version.cuda,
        "cuda_devices": devices,
        "mps": torch.backends.mps.is_available(),
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
