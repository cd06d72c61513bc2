"""Whole groups in CUDA (`span.cu`), the rest in Triton: 4 bits, heads of 128, groups of 32, on NVIDIA's GPUs.

NVRTC compiles it when it first runs, and the driver launches it; both through `cuda.bindings`.
"""

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from sinkctl.kernels import present
from sinkctl.kernels.rounded_decode import triton
from sinkctl.kernels.rounded_decode.reference import Angles, Rule, Store

WIDTH, BITS, TOGETHER, SHARE, GROUPS = 128, 4, 32, 4, 4
THREADS = 128
BLOCKS = 4  # a multiprocessor
SHARED = 55_376  # bytes
PROGRAMS = 2112  # several a multiprocessor, so that the last ones to end are a small part of all


def fits(q_BHD: Tensor, store: Store, rule: Rule) -> bool:
    """Whether the kernel is for these."""
    share = q_BHD.shape[1] // store.k_codes.shape[1]
    turning = store.k_codes.shape[2] - -(-rule.sinks // TOGETHER), store.v_codes.shape[2] - rule.sinks
    return (
        (q_BHD.shape[-1], rule.bits, rule.together) == (WIDTH, BITS, TOGETHER)
        and share <= SHARE
        and turning[0] >= GROUPS
        and turning[1] >= GROUPS * TOGETHER
    )


def rounded_decode(q_BHD: Tensor, k_BGD: Tensor, v_BGE: Tensor, store: Store, t_B: Tensor, **options) -> Tensor:
    """As `reference.rounded_decode`, for what `select` lets pass; the store is contiguous."""
    spanning = Span() if fits(q_BHD, store, options["rule"]) else None
    return triton.rounded_decode(q_BHD, k_BGD, v_BGE, store, t_B, spanning=spanning, **options)


class Span:
    """Launches the kernel."""

    def __init__(self):
        self.PROGRAMS = PROGRAMS

    def __call__(self, q_BHD, store, t_B, tables, m, norm, acc, G, spans, rule: Rule, scale, softcap) -> None:
        B, H = q_BHD.shape[:2]
        coarse, fine, packed, _ = tables
        kernel = _kernel(q_BHD.dtype == torch.bfloat16, softcap is not None, _capability(q_BHD.device), q_BHD.device)
        pointers = [q_BHD, *store[2:8], t_B, coarse, fine, packed, m, norm, acc]
        values = [x.data_ptr() for x in pointers] + [q_BHD.stride(0), q_BHD.stride(1), G, H // G, spans, rule.recent,
                  rule.kept, rule.sinks, rule.window or 0, rule.window is not None, store.k_codes.shape[2],
                  store.v_codes.shape[2], scale, softcap or 0.0]  # fmt: skip
        types = [ctypes.c_void_p] * len(pointers) + [ctypes.c_longlong] * 2 + [ctypes.c_int] * 10 + [ctypes.c_float] * 2
        self.launch(kernel, (spans, B * G), tuple(values), tuple(types))

    def launch(self, kernel, grid, values, types):
        from cuda.bindings import driver

        config = driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = *grid, 1
        config.blockDimX, config.blockDimY, config.blockDimZ = THREADS, 1, 1
        config.sharedMemBytes = SHARED
        config.hStream = torch.cuda.current_stream().cuda_stream
        if OVERLAPS():
            early = driver.CUlaunchAttribute()
            early.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
            early.value.programmaticStreamSerializationAllowed = 1
            config.attrs, config.numAttrs = [early], 1
        _checked(driver.cuLaunchKernelEx(config, kernel, (values, types), 0))


def OVERLAPS() -> bool:
    return torch.cuda.get_device_capability() >= (9, 0)


def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def _checked(found: tuple):
    """What a call of `cuda.bindings` found."""
    if int(found[0]):
        raise RuntimeError(f"CUDA: {found[0].name}")
    return found[1] if len(found) == 2 else found[1:]


def source() -> str:
    """Of the kernel."""
    folder = Path(__file__).parent
    return (folder / "primitives.cuh").read_text() + (folder / "span.cu").read_text()


def compiled(bf16: bool, capped: bool, capability: tuple[int, int]) -> bytes:
    """Machine code for GPUs of that compute capability."""
    from cuda.bindings import nvrtc

    options = [f"--gpu-architecture=sm_{capability[0]}{capability[1]}", "--std=c++17", "--use_fast_math",
               f"-DBF16={int(bf16)}", f"-DHAS_CAP={int(capped)}", f"-DOVERLAPS={int(capability >= (9, 0))}",
               f"-DBLOCKS={BLOCKS}"]  # fmt: skip
    program = _checked(nvrtc.nvrtcCreateProgram(source().encode(), b"span.cu", 0, [], []))
    (problem,) = nvrtc.nvrtcCompileProgram(program, len(options), [x.encode() for x in options])
    if int(problem):
        log = b" " * _checked(nvrtc.nvrtcGetProgramLogSize(program))
        nvrtc.nvrtcGetProgramLog(program, log)
        raise RuntimeError(f"NVRTC: {log.decode()}")
    code = b" " * _checked(nvrtc.nvrtcGetCUBINSize(program))
    nvrtc.nvrtcGetCUBIN(program, code)
    return code


@cache
def _kernel(bf16: bool, capped: bool, capability: tuple[int, int], device: torch.device):
    """Loaded on a device."""
    from cuda.bindings import driver

    module = _checked(driver.cuModuleLoadData(compiled(bf16, capped, capability)))
    function = _checked(driver.cuModuleGetFunction(module, b"span"))
    most = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    _checked(driver.cuFuncSetAttribute(function, most, SHARED))
    return function
