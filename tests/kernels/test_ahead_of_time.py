"""Every kernel in Triton and CUDA compiled, with no GPU, for Ampere, Ada and Hopper, as its caller launches it.

`pytest -s` shows registers a thread and bytes of shared memory a program.
"""

import os
import re
import subprocess

import pytest
import torch
from kernel_calls import CASES, HOPPER_ALONE

from sinkctl.kernels import nvrtc, present
from sinkctl.kernels.rounded_decode import cuda

triton = pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("interpreted kernels are not compiled", allow_module_level=True)
if os.environ.get("SINKCTL_LONG") != "1":
    pytest.skip("takes minutes; SINKCTL_LONG=1 runs it", allow_module_level=True)
if not triton.__version__.startswith("3.7."):
    pytest.skip(f"the limits are of Triton 3.7, not {triton.__version__}", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.backends.nvidia.driver import CudaDriver  # noqa: E402
from triton.runtime.driver import driver  # noqa: E402

# Bytes of stack a thread may take: in decoding the program that takes sinks and the new token, before its loop.
SPILLED = {
    ("decoded_256", "_part"): 64, ("streamed_256", "_kernel"): 32, ("streamed_alibi", "_kernel"): 8,
    ("multiplied_8_rows", "_several"): 8,
}  # fmt: skip
MOST_SHARED = {80: 163 << 10, 89: 99 << 10, 90: 227 << 10}  # bytes a program may have
BIN = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin")


class _Elsewhere:
    """What launching asks a driver, answered for a GPU that is not here."""

    def __init__(self, capability: int):
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_device(self) -> int:
        return self.target.arch

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return self.target

    map_python_to_cpp_type = CudaDriver.map_python_to_cpp_type


def resources(cubin: bytes, folder) -> dict[str, int]:
    """Registers a thread, bytes of stack (what spills) and bytes of shared memory that are fixed."""
    path = folder / "kernel.cubin"
    path.write_bytes(cubin)
    command = [os.path.join(BIN, "cuobjdump"), "--dump-resource-usage", str(path)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", shown)}


@pytest.fixture
def compiled(monkeypatch):
    """What a call compiles for a GPU: `compiled(capability, call)`; nothing is launched."""

    def run(capability, call):
        found, launch = [], triton.JITFunction.run

        def compile_only(self, *arguments, grid, warmup, **options):
            found.append(launch(self, *arguments, grid=grid, warmup=True, **options))

        with monkeypatch.context() as patch:
            patch.setattr(triton.JITFunction, "run", compile_only)
            patch.setattr(driver, "_active", _Elsewhere(capability))
            patch.setattr(present, "hopper", lambda x: capability == 90)
            early = dict(OVERLAPS=True, launch_pdl=True) if capability == 90 else dict(OVERLAPS=False)
            patch.setattr(present, "overlapping", lambda x: early)
            call()
        return found

    return run


@pytest.mark.parametrize(
    ("case", "capability"),
    [(case, capability) for case in CASES for capability in MOST_SHARED] + [(case, 90) for case in HOPPER_ALONE],
)
def test_kernels_compile_without_spills_within_the_memory_of_each_gpu(case, capability, compiled, tmp_path):
    kernels = compiled(capability, (CASES | HOPPER_ALONE)[case])
    assert kernels
    for kernel in kernels:
        used = resources(kernel.asm["cubin"], tmp_path)
        told = f"{case}: {kernel.metadata.name}, sm_{capability}: {used}, shared {kernel.metadata.shared}"
        print(told)
        assert used["STACK"] <= SPILLED.get((case, kernel.metadata.name), 0), told
        assert used["LOCAL"] == 0, told
        assert kernel.metadata.shared <= MOST_SHARED[capability], told


@pytest.mark.parametrize("capped", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_spans_in_cuda_compile_without_spills(dtype, capped, tmp_path):
    nvrtc_bindings = pytest.importorskip("cuda.bindings.nvrtc")
    try:
        nvrtc_bindings.nvrtcVersion()
    except RuntimeError as problem:
        pytest.skip(str(problem).splitlines()[0])
    code = nvrtc.compiled(cuda.source(), "span", cuda.options(dtype, capped, overlaps=True), (9, 0))
    used = resources(code, tmp_path)
    told = f"span, sm_90, {dtype}: {used}, shared {cuda.SHARED}"
    print(told)
    assert (used["STACK"], used["LOCAL"]) == (0, 0), told
    assert cuda.BLOCKS * (cuda.SHARED + 1024) <= 228 << 10  # a multiprocessor
