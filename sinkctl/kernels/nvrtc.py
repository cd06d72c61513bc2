"""CUDA C++ compiled where it first runs, by NVRTC, and launched by the driver; both through `cuda.bindings`."""

import ctypes
from functools import cache
from typing import Any

import torch


def compiled(source: str, name: str, options: tuple[str, ...], capability: tuple[int, int]) -> bytes:
    """Machine code for GPUs of that compute capability; a RuntimeError has the compiler's words."""
    from cuda.bindings import nvrtc

    every = (f"--gpu-architecture=sm_{capability[0]}{capability[1]}", "--std=c++17", "--use_fast_math", *options)
    program = _checked(nvrtc.nvrtcCreateProgram(source.encode(), f"{name}.cu".encode(), 0, [], []))
    try:
        (problem,) = nvrtc.nvrtcCompileProgram(program, len(every), [option.encode() for option in every])
        if int(problem):
            log = b" " * _checked(nvrtc.nvrtcGetProgramLogSize(program))
            _checked(nvrtc.nvrtcGetProgramLog(program, log))
            raise RuntimeError(f"NVRTC does not compile {name}.cu: {problem.name}: {log.decode().strip(chr(0))}")
        code = b" " * _checked(nvrtc.nvrtcGetCUBINSize(program))
        _checked(nvrtc.nvrtcGetCUBIN(program, code))
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return code


@cache
def kernel(source: str, name: str, options: tuple[str, ...], shared: int, device: int) -> Any:
    """Compiled and loaded for a device, the current one; `shared` bytes of shared memory are asked for in launching."""
    from cuda.bindings import driver

    code = compiled(source, name, options, torch.cuda.get_device_capability(device))
    function = _checked(driver.cuModuleGetFunction(_checked(driver.cuModuleLoadData(code)), name.encode()))
    most = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    _checked(driver.cuFuncSetAttribute(function, most, shared))
    return function


def launch(function: Any, grid: tuple[int, int], threads: int, shared: int, arguments: list, early: bool) -> None:
    """On the current stream; `early`: it may begin before the kernel in front of it has ended.

    Arguments are tensors, whose addresses are passed, and ctypes values.
    """
    from cuda.bindings import driver

    config = driver.CUlaunchConfig()
    config.gridDimX, config.gridDimY, config.gridDimZ = *grid, 1
    config.blockDimX, config.blockDimY, config.blockDimZ = threads, 1, 1
    config.sharedMemBytes = shared
    config.hStream = torch.cuda.current_stream().cuda_stream
    if early:
        attribute = driver.CUlaunchAttribute()
        attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        attribute.value.programmaticStreamSerializationAllowed = 1
        config.attrs, config.numAttrs = [attribute], 1
    held = [ctypes.c_void_p(x.data_ptr()) if isinstance(x, torch.Tensor) else x for x in arguments]
    # The address of an empty tensor is None.
    values, types = tuple(0 if x.value is None else x.value for x in held), tuple(type(x) for x in held)
    _checked(driver.cuLaunchKernelEx(config, function, (values, types), 0))


def _checked(found: tuple) -> Any:
    """What a call of `cuda.bindings` gives beside its error code."""
    if int(found[0]):
        raise RuntimeError(f"CUDA: {found[0].name}")
    return found[1] if len(found) == 2 else found[1:]
