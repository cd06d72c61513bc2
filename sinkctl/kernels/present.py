"""Whether Triton kernels can run here."""

from functools import cache

import torch


@cache
def triton_runs() -> tuple[bool, str]:
    """(whether they run, why or why not)."""
    if not torch.cuda.is_available():
        return False, "no CUDA device"
    try:
        import triton
    except ImportError:
        return False, "Triton is not installed"
    if torch.version.hip is None and torch.cuda.get_device_capability() < (8, 0):
        return False, "the GPU is older than compute capability 8.0"
    return True, f"Triton {triton.__version__}"
