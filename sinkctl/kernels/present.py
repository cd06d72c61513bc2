"""Whether Triton kernels, those of FlashAttention-3 and cuDNN graphs can run here, and are to."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

import torch
from torch import Tensor

_UNCOMPILED: ContextVar[str | None] = ContextVar("uncompiled", default=None)


@contextmanager
def uncompiled(reason: str | None) -> Iterator[None]:
    """Inside it no kernel is chosen that is compiled when it first runs, for this reason; None changes nothing."""
    token = _UNCOMPILED.set(_UNCOMPILED.get() if reason is None else reason)
    try:
        yield
    finally:
        _UNCOMPILED.reset(token)


def triton_runs(anyway: bool = False) -> tuple[bool, str]:
    """(whether they run, why or why not); `anyway`: even where nothing is to be compiled."""
    reason = _UNCOMPILED.get()
    return _triton_can() if anyway or reason is None else (False, reason)


@cache
def _triton_can() -> tuple[bool, str]:
    if not torch.cuda.is_available():
        return False, "no CUDA device"
    try:
        import triton
    except ImportError:
        return False, "Triton is not installed"
    if torch.version.hip is None and torch.cuda.get_device_capability() < (8, 0):
        return False, "the GPU is older than compute capability 8.0"
    return True, f"Triton {triton.__version__}"


def hopper(x: Tensor) -> bool:
    """Whether x is on a GPU of compute capability 9.0, whose kernels keep more on chip."""
    return x.is_cuda and torch.version.hip is None and torch.cuda.get_device_capability(x.device) == (9, 0)


def overlapping(x: Tensor) -> dict[str, bool]:
    """Options of a Triton kernel with the constant OVERLAPS: on x's GPU it may begin while the one before it ends.

    That is programmatic dependent launch. Such a kernel says at once that the next may begin, and touches nothing that
    another kernel writes before it has waited for the one in front, which has waited likewise.
    """
    can = x.is_cuda and torch.version.hip is None and torch.cuda.get_device_capability(x.device) >= (9, 0)
    return dict(OVERLAPS=True, launch_pdl=True) if can else dict(OVERLAPS=False)


def packs_halves() -> bool:
    """Whether a kernel may multiply two float16 by one instruction of NVIDIA's, written as such."""
    return torch.version.hip is None and os.environ.get("TRITON_INTERPRET") != "1"


def nvrtc_runs() -> tuple[bool, str]:
    """The same of kernels in CUDA C++, compiled by NVRTC."""
    runs, reason = triton_runs()  # what stands beside them
    return _nvrtc_can() if runs else (False, reason)


@cache
def _nvrtc_can() -> tuple[bool, str]:
    if torch.version.hip is not None:
        return False, "NVRTC is for NVIDIA's GPUs"
    try:
        from cuda.bindings import driver, nvrtc  # noqa: F401

        _, *version = nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError) as problem:
        return False, f"NVRTC does not load ({str(problem).splitlines()[0]}); pip install 'sinkctl[hopper]'"
    return True, f"NVRTC {'.'.join(map(str, version))}"


FA3_WIDTHS = (64, 128, 192, 256)  # of heads it has kernels of; others it would pad


def fa3_runs() -> tuple[bool, str]:
    """The same of FlashAttention-3, whose package registers the operator `flash_attn_3::fwd`."""
    runs, reason = triton_runs()  # what folds in strip and sink logit
    return _fa3_can() if runs else (False, reason)


@cache
def _fa3_can() -> tuple[bool, str]:
    _, reason = _triton_can()
    if torch.version.hip is not None or torch.cuda.get_device_capability() != (9, 0):
        return False, "FlashAttention-3 is for GPUs of compute capability 9.0"
    try:
        import flash_attn_3._C  # noqa: F401
    except ImportError as problem:
        return False, f"FlashAttention-3 does not load ({problem}); pip install 'sinkctl[hopper]'"
    return True, f"FlashAttention-3, {reason}"


@cache
def cudnn_graphs_run() -> tuple[bool, str]:
    """The same of graphs of cuDNN's own, which another package than torch builds."""
    if not torch.cuda.is_available() or not torch.backends.cudnn.is_available():
        return False, "no cuDNN"
    try:
        import cudnn
    except (ImportError, AttributeError) as problem:
        return False, f"nvidia-cudnn-frontend does not load ({problem}); pip install 'sinkctl[hopper]'"
    return True, f"nvidia-cudnn-frontend {cudnn.__version__}"
