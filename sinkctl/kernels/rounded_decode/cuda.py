"""`rounded_decode` in CUDA (`span.cu`) for the most used form; its parts are merged in Triton."""

from ctypes import c_float, c_int, c_longlong
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sinkctl.kernels import nvrtc, present
from sinkctl.kernels.rounded_decode.reference import Angles, Rule, Store
from sinkctl.kernels.rounded_decode.tables import tables_of

WIDTH, BITS, TOGETHER = 128, 4, 32
HEADS = 4  # query heads a block
GROUPS = 4  # a tile
FILES = ("primitives.cuh", "tiles.cuh", "full.cuh", "products.cuh", "softmax.cuh", "span.cu")
THREADS, SHARED = 128, 56_480  # of a block; bytes
BLOCKS = 4  # a multiprocessor
PROGRAMS = 1024  # not quite twice as many as run at once on an H200
PIECES = 2  # of each row and key/value head take what stands beside whole groups
MOST_PARTS = 64
LOG2E = 1.4426950408889634


def covers(rule: Rule, widths: tuple[int, int], share: int) -> bool:
    """Whether the kernel takes such keys and values: `share` query heads a key/value head."""
    form = rule.bits, rule.together, rule.channels, *widths
    wide = rule.window is None or rule.window - rule.recent >= GROUPS * TOGETHER
    return form == (BITS, TOGETHER, TOGETHER, WIDTH, WIDTH) and share <= 2 * HEADS and wide


def loads(device: torch.device, dtype: torch.dtype) -> tuple[bool, str]:
    """(whether the kernel is for this GPU and compiles here, why or why not)."""
    runs, reason = present.nvrtc_runs()
    if not runs:
        return False, reason
    if torch.cuda.get_device_capability(device) != (9, 0):
        return False, "the kernel in CUDA was measured on compute capability 9.0 alone"
    with torch.cuda.device(device):
        problem = _problem(dtype, torch.cuda.current_device())
    return problem is None, problem or reason


@cache
def _problem(dtype: torch.dtype, device: int) -> str | None:
    """Why the kernel does not compile here: asked once, since every layer wants to know."""
    try:
        _function((dtype, False), device)
    except RuntimeError as problem:
        return str(problem).splitlines()[0]
    return None


def rounded_decode(
    q_BHD: Tensor, k_BGD: Tensor, v_BGE: Tensor, store: Store, t_B: Tensor, *, rule: Rule, angles: Angles, scale: float,
    sink_logit_H: Tensor | None = None, softcap: float | None = None, take: bool = True,
) -> Tensor:  # fmt: skip
    """As `reference.rounded_decode`, for what `select` lets pass; the store is contiguous."""
    from sinkctl.kernels.rounded_decode import triton
    from sinkctl.kernels.rounded_decode.rounding import finish

    turning = min(store.k_codes.shape[2] * TOGETHER, store.v_codes.shape[2]) - rule.sinks - TOGETHER
    if turning < GROUPS * TOGETHER or store.v_codes[0, 0].nbytes >= 2**32:
        own = dict(rule=rule, angles=angles, scale=scale, sink_logit_H=sink_logit_H, softcap=softcap, take=take)
        return triton.rounded_decode(q_BHD, k_BGD, v_BGE, store, t_B, **own)
    assert all(x.is_contiguous() for x in store)
    assert all(x.stride(-1) == 1 for x in (q_BHD, k_BGD, v_BGE))
    (B, H, D), G = q_BHD.shape, k_BGD.shape[1]
    tiles, blocks = -(-store.k_codes.shape[2] // GROUPS), B * G * -(-H // G // HEADS)
    count = max(1, min(PROGRAMS // blocks - PIECES, tiles, MOST_PARTS - PIECES))
    found = tuple(q_BHD.new_empty(B * H * (count + PIECES), *width, dtype=torch.float32) for width in ((), (), (D,)))
    out = q_BHD.new_empty(B, H, D)
    with torch.cuda.device_of(q_BHD):
        attend((q_BHD, k_BGD, v_BGE), store, t_B, angles, found, (count, PIECES), rule, scale, softcap)
        early = present.overlapping(q_BHD)
        finish(k_BGD, v_BGE, store, t_B, rule, found, sink_logit_H, out, parts=count + PIECES, rounds=take, **early)
    return out


def attend(
    qkv: tuple[Tensor, Tensor, Tensor], store: Store, t_B: Tensor, angles: Angles, out: tuple[Tensor, Tensor, Tensor],
    parts: tuple[int, int], rule: Rule, scale: float, softcap: float | None,
) -> None:  # fmt: skip
    """Launches the kernel: `out` are maxima, in units of ln 2, sums and weighted values by query head and part.

    `parts` are (spans of whole groups, pieces of the rest), of which the latter come last.
    """
    (q_BHD, *_), G = qkv, store.k_codes.shape[1]
    (B, H, _), (count, pieces) = q_BHD.shape, parts
    numbers = [G, H // G, count, pieces, rule.recent, rule.kept, rule.sinks]
    slots = [rule.window or 0, int(rule.window is not None), store.k_codes.shape[2], store.v_codes.shape[2]]
    strides = [stride for x in qkv for stride in x.stride()[:2]]
    coarse, fine, packed, _ = tables_of(angles, BITS)
    launched(
        (q_BHD.dtype, softcap is not None), (B * G * -(-H // G // HEADS), count + pieces),
        [*qkv, *store, t_B, coarse, fine, packed, *out, *map(c_longlong, strides), *map(c_int, numbers + slots),
         c_float(scale * LOG2E), c_float(softcap or 0.0)],
    )  # fmt: skip


def launched(variant: tuple[torch.dtype, bool], grid: tuple[int, int], arguments: list) -> None:
    """The kernel for this dtype, with or without a softcap."""
    device = arguments[0].device.index
    nvrtc.launch(_function(variant, device), grid, THREADS, SHARED, arguments, _overlaps(device))


def _function(variant: tuple[torch.dtype, bool], device: int) -> Any:
    return nvrtc.kernel(source(), "span", options(*variant, _overlaps(device)), SHARED, device)


def _overlaps(device: int) -> bool:
    return torch.cuda.get_device_capability(device) >= (9, 0)


def options(dtype: torch.dtype, capped: bool, overlaps: bool) -> tuple[str, ...]:
    """What the compiler is told."""
    names = dict(BF16=dtype == torch.bfloat16, HAS_CAP=capped, OVERLAPS=overlaps, BLOCKS=BLOCKS, SHARED=SHARED)
    return tuple(f"-D{name}={int(value)}" for name, value in names.items())


@cache
def source(first: int = 0) -> str:
    """Of the kernel, in one file, from one of its files on: the first is what it asks of a GPU."""
    folder = Path(__file__).parent
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in FILES[first:])
