"""What a run ran on: written to `env.json`, printed by `sinkctl doctor`; and the part that benchmarks depend on."""

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from copy import copy
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sinkctl import __version__
from sinkctl.result.bench import Machine
from sinkctl.result.source import source

LIBRARIES = (
    "torch",
    "transformers",
    "tokenizers",
    "accelerate",
    "safetensors",
    "numpy",
    "pydantic",
    "typer",
    "triton",
    "gguf",
)
LARGEST = ("torch", "transformers")  # of what is imported
# Ours → what nvidia-smi calls it.
NVIDIA = {
    "driver": "driver_version",
    "sm_clock": "clocks.sm",
    "sm_clock_max": "clocks.max.sm",
    "power_limit": "power.limit",
    "temperature_celsius": "temperature.gpu",
}


def environment() -> dict[str, Any]:
    """Versions, source, processor and accelerators, as plain data."""
    import torch

    count = torch.cuda.device_count()
    told = _nvidia() if count else {}
    devices = [
        {
            "name": properties.name,
            "memory_bytes": properties.total_memory,
            "capability": f"{properties.major}.{properties.minor}",
            **told.get(str(properties.uuid), {}),
        }
        for properties in map(torch.cuda.get_device_properties, range(count))
    ]
    return {
        "sinkctl": __version__,
        "source": copy(_source()),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": processor(),
        "processors": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "bytecode": bytecode(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "cuda": torch.version.cuda,
        "cuda_devices": devices,
        "mps": torch.backends.mps.is_available(),
    }


def machine(device: str, dtype: str, model: str) -> Machine:
    """What timings on `device` ("cpu", "cuda:0") depend on; call it where torch's threads are set as in the run.

    dtype: "float32"; model: the checkpoint's fingerprint, or the shape.
    """
    import torch

    versions = {"python": platform.python_version(), **{n: _version(n) for n in ("torch", "transformers", "triton")}}
    name = f"{processor()} × {os.cpu_count()}" if device == "cpu" else device
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        name = properties.name
        versions |= {"cuda": torch.version.cuda, "driver": _nvidia().get(str(properties.uuid), {}).get("driver")}
    return Machine(device=name, threads=torch.get_num_threads(), dtype=dtype, model=model, versions=versions)


def bytecode() -> str:
    """Whether Python finds its largest imports compiled; where not, why, and what to do."""
    lacking = [name for name in LARGEST if not Path(find_spec(name).cached or "").is_file()]
    if not lacking:
        return "kept"
    why, then = "their folders cannot be written", ""
    if sys.dont_write_bytecode:
        why, then = "PYTHONDONTWRITEBYTECODE is set", " and unset that"
    return (
        f"none of {' and '.join(lacking)}: {why}, so every start compiles them again, for seconds; set "
        f"PYTHONPYCACHEPREFIX to a folder of your own{then}"
    )


@cache
def processor() -> str:
    """The processor's model, as the system names it."""
    try:
        named = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(errors="replace"), re.MULTILINE)
    except OSError:
        named = None
    return named[1].strip() if named else platform.processor() or platform.machine()


def _nvidia() -> dict[str, dict[str, str]]:
    """What nvidia-smi says of every GPU, with its units; nothing of one it names otherwise (a slice, another maker's).

    It takes seconds where many GPUs are, so it is asked once for all of them.
    """
    command = ["nvidia-smi", f"--query-gpu=uuid,{','.join(NVIDIA.values())}", "--format=csv,noheader"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return {}
    told = ([part.strip() for part in line.split(",")] for line in lines)
    return {
        uuid.removeprefix("GPU-"): {
            name: value for name, value in zip(NVIDIA, values, strict=False) if not value.startswith("[")
        }
        for uuid, *values in told
    }


@cache
def _source() -> dict[str, Any] | None:
    """As first asked for: what is committed later is not what this process has imported."""
    return source()


@cache
def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
