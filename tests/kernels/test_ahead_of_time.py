"""Every Triton kernel compiled, with no GPU, for Ampere, Ada and Hopper, as its caller launches it.

`pytest -s` shows registers a thread and bytes of shared memory a program.
"""

import os
import re
import subprocess
from functools import partial

import pytest
import torch

from sinkctl.kernels import present
from sinkctl.kernels.column_sums import Visible
from sinkctl.kernels.decode_attention import Ring, Turn
from sinkctl.kernels.rounded_decode import Angles, Rule, Store
from sinkctl.kernels.stream_attention import Strip

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

# H query heads, G key/value heads, T tokens, S keys, R ring slots, N sinks, D head width, n rotated pairs
H, G, T, N, BF16 = 8, 2, 512, 4, torch.bfloat16
# Bytes of stack a thread may take: in decoding the program that takes sinks and the new token, before its loop.
SPILLED = {("decoded_256", "_part"): 64, ("streamed_256", "_kernel"): 32, ("streamed_alibi", "_kernel"): 8}
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


def normal(*shape: int, dtype: torch.dtype = BF16) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype)


def streamed(width: int, **options) -> None:
    from sinkctl.kernels.stream_attention.triton import triton_attention

    strip = Strip(normal(1, H, T, width), *(normal(1, G, N, width) for _ in range(2)), torch.arange(N, 0, -1))
    x = (normal(1, H, T, width), *(normal(1, G, 2 * T, width) for _ in range(2)))
    triton_attention(*x, scale=0.1, window=T, strip=strip, sink_logit_H=normal(H), **options)


def folded(width: int) -> None:
    from sinkctl.kernels.stream_attention.fa3 import fold

    strip = Strip(normal(1, H, T, width), *(normal(1, G, N, width) for _ in range(2)))
    fold(normal(1, T, H, width), normal(1, H, T, dtype=torch.float), strip, normal(H), kv_heads=G, scale=0.1)


def decoded(width: int) -> None:
    from sinkctl.kernels.decode_attention.triton import decode_attention

    ring = Ring(*(normal(1, G, slots, width) for slots in (T, T, N, N)))
    turn = Turn(*(normal(1, width // 2, dtype=torch.float) for _ in range(4)), start=0, interleaved=False)
    x = (normal(1, heads, width) for heads in (H, G, G))
    decode_attention(*x, ring, torch.tensor([3 * T]), turn=turn, scale=0.1, sink_logit_H=normal(H))


def dequantized(width: int, bits: int = 4, together: int = 32) -> None:
    from sinkctl.kernels.rounded_decode.quantize import quantize
    from sinkctl.kernels.rounded_decode.triton import rounded_decode

    def coded(tokens: int, channels: int | None) -> list[torch.Tensor]:
        one = quantize(normal(tokens, width), bits, channels)
        return [x.expand(1, G, 8 * T // tokens, *x.shape).contiguous() for x in one]

    full = (normal(1, G, slots, width) for slots in (T + together, T + 1))
    store = Store(*full, *coded(together, None), *coded(1, together), *(normal(1, G, N, width) for _ in range(2)))
    angles = Angles(*(normal(n, width // 2, dtype=torch.float) for n in (T, T, together, together)), 0, False)
    x = (normal(1, heads, width) for heads in (H, G, G))
    rule = Rule(bits, together, together, T, N, N, 8 * T)
    rounded_decode(*x, store, torch.tensor([3 * T]), rule=rule, angles=angles, scale=0.1, sink_logit_H=normal(H))


def summed(width: int) -> None:
    from sinkctl.kernels.column_sums.triton import triton_sums

    x = (normal(1, heads, T, width) for heads in (H, G, G))
    triton_sums(*x, scale=0.1, visible=Visible(window=T // 2), sink_logit_H=normal(H))


def queried(width: int, **options) -> None:
    from sinkctl.kernels.query_sums.triton import fused_sums, fused_written

    q, k, lse = normal(1, H, T, width), normal(1, G, T, width), normal(1, H, T, dtype=torch.float)
    fused_sums(q, k, lse, scale=0.1, visible=Visible(window=T // 2), leading=N, local=64, **options)
    fused_written(k, normal(H, width, width, dtype=torch.float))


def spread(width: int) -> None:
    from sinkctl.kernels.activations.triton import massive, outliers

    h, real = normal(1, 64, 64 * width), torch.ones(1, 64, dtype=torch.bool)  # 4,096 to 16,384 channels
    massive(h, real, 100.0, 1000.0)
    outliers(h, real, 6)


def rotated(width: int) -> None:
    from sinkctl.kernels.rotate.triton import rotate

    tables = (normal(T, width // 2, dtype=torch.float) for _ in range(2))
    rotate(normal(1, H, T, width), *tables, start=0, interleaved=False)


def multiplied(width: int) -> None:
    from sinkctl.kernels.row_products import Norm
    from sinkctl.kernels.row_products.triton import row_products

    x, matrices = normal(16 * width), [normal(rows * width, 16 * width) for rows in (16, 16)]
    row_products(x, [*matrices, matrices[0]], norm=Norm(x, 1e-5))
    row_products(x, matrices, norm=Norm(x, 1e-5), gated=True)
    row_products(x, matrices[:1], add_N=x)


CASES = {
    f"{run.__name__}_{width}": partial(run, width)
    for run in (streamed, folded, decoded, dequantized, summed, queried, spread, rotated, multiplied)
    for width in (64, 128, 256)
} | {
    "dequantized_8_bits": partial(dequantized, 128, bits=8),
    "dequantized_2_bits": partial(dequantized, 128, bits=2),
    "dequantized_groups_of_64": partial(dequantized, 128, together=64),
    "streamed_capped": partial(streamed, 128, softcap=50.0),
    "streamed_alibi": partial(streamed, 128, slope_H=normal(H, dtype=torch.float)),
}


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


@pytest.mark.parametrize("capability", MOST_SHARED)
@pytest.mark.parametrize("case", CASES)
def test_kernels_compile_without_spills_within_the_memory_of_each_gpu(case, capability, compiled, tmp_path):
    kernels = compiled(capability, CASES[case])
    assert kernels
    for kernel in kernels:
        used = resources(kernel.asm["cubin"], tmp_path)
        told = f"{case}: {kernel.metadata.name}, sm_{capability}: {used}, shared {kernel.metadata.shared}"
        print(told)
        assert used["STACK"] <= SPILLED.get((case, kernel.metadata.name), 0), told
        assert used["LOCAL"] == 0, told
        assert kernel.metadata.shared <= MOST_SHARED[capability], told
