"""A GPU's context, made by the driver while Python imports torch, which would wait seconds for it afterwards.

Importing this imports no torch.
"""

import ctypes
import os
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

from sinkctl.launched import local_rank, processes


def begin_context(device: str) -> threading.Thread | None:
    """For the device of a recipe's model; where it is a CPU, or driver or torch are without CUDA, nothing happens.

    What goes wrong is left to torch, which asks again and says it. The process ends after the thread does: a driver
    that is torn down meanwhile may crash.
    """
    kind, _, number = device.partition(":")
    if sys.platform != "linux" or kind not in ("auto", "cuda") or not _torch_uses_it():
        return None
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")  # as torch does before it asks
    ordinal = int(number or (local_rank() if processes() > 1 else 0))
    thread = threading.Thread(target=_make, args=(driver, ordinal), name="CUDA context")
    thread.start()
    return thread


def _torch_uses_it() -> bool:
    """Told without importing it, by a library of its CUDA builds."""
    torch = find_spec("torch")
    return torch is not None and (Path(torch.origin).parent / "lib" / "libtorch_cuda.so").exists()


def _make(driver: ctypes.CDLL, ordinal: int) -> None:
    """The primary context of the GPU of this number, which torch's runtime shares; calls let other threads run."""
    gpu, context = ctypes.c_int(), ctypes.c_void_p()
    if driver.cuInit(0) == 0 and driver.cuDeviceGet(ctypes.byref(gpu), ordinal) == 0:
        driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), gpu)
