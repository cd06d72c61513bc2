"""`stream_attention` by FlashAttention-3 for the band, strip and sink logit folded into its output by one kernel.

FlashAttention-3 (Shah et al. 2024, arXiv 2407.08608) comes from another package, for Hopper GPUs alone; it gives the
band's output and log-sum-exp. The fold goes on with the running softmax from there, in place: each tile of queries is
met un-rotated by the strip's keys. Shapes as in `reference.py`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sinkctl.kernels.stream_attention.reference import Strip
from sinkctl.kernels.stream_attention.triton import LOG2E, _attend

NUMBERS, WARPS = 4096, 2  # of output, a tile
MOST = 64  # strip keys a step


@triton.jit
def _fold(
    out, lse, q, k, v, sink, ob, ot, oh, qb, qt, qh, H, G, T, N, scale,
    D: tl.constexpr, E: tl.constexpr, PD: tl.constexpr, PE: tl.constexpr, PN: tl.constexpr, BM: tl.constexpr,
    HAS_STRIP: tl.constexpr, HAS_SINK: tl.constexpr,
):  # fmt: skip
    # Heads side by side: rows of one token lie together in memory.
    h, b = (tl.program_id(0) % H).to(tl.int64), tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) // H * BM + tl.arange(0, BM)
    d, e, n = tl.arange(0, PD), tl.arange(0, PE), tl.arange(0, PN)
    rows, group = i.to(tl.int64)[:, None], b * G + h // (H // G)
    target, live = out + b * ob + h * oh + rows * ot + e[None, :], (i[:, None] < T) & (e[None, :] < E)
    acc = tl.load(target, live, 0.0).to(tl.float32)
    m = tl.load(lse + (b * H + h) * T + i, i < T, 0.0) * 1.4426950408889634
    norm = tl.zeros([BM], tl.float32) + 1.0
    if HAS_SINK:
        logit = tl.load(sink + h).to(tl.float32) * 1.4426950408889634
        m_new = tl.maximum(m, logit)
        norm = tl.exp2(m - m_new)
        acc *= norm[:, None]
        norm += tl.exp2(logit - m_new)
        m = m_new
    if HAS_STRIP:
        q_tile = tl.load(q + b * qb + h * qh + rows * qt + d[None, :], (i[:, None] < T) & (d[None, :] < D), 0.0)
        for start in tl.range(0, N, PN):
            j = start + n
            inside = j < N
            k_tile = tl.load(k + group * N * D + j[None, :] * D + d[:, None], inside[None, :] & (d[:, None] < D), 0.0)
            v_tile = tl.load(v + group * N * E + j[:, None] * E + e[None, :], inside[:, None] & (e[None, :] < E), 0.0)
            x = tl.where(inside[None, :], tl.dot(q_tile, k_tile), -float("inf"))
            m, norm, acc = _attend(m, norm, acc, x, scale, v_tile)
    tl.store(target, (acc / norm[:, None]).to(out.dtype.element_ty), live)


def fold(
    out_BTHE: Tensor, lse_BHT: Tensor, strip: Strip | None, sink_logit_H: Tensor | None, *, kv_heads: int, scale: float
) -> None:
    """Add the strip and the sink logit to attention of output `out_BTHE` and log-sum-exp `lse_BHT`, in place."""
    B, T, H, E = out_BTHE.shape
    q, k, v, strides, N, D = None, None, None, (0, 0, 0), 0, E
    if strip is not None:
        q, k, v = strip.q_BHTD, strip.k_BGND.contiguous(), strip.v_BGNE.contiguous()
        strides, N, D = [q.stride(axis) for axis in (0, 2, 1)], k.shape[2], q.shape[-1]
        assert q.stride(-1) == 1
    assert out_BTHE.stride(-1) == 1
    assert lse_BHT.is_contiguous()
    PD, PE, PN = (max(16, triton.next_power_of_2(max(1, size))) for size in (D, E, N))
    BM = max(16, NUMBERS // PE)
    with torch.cuda.device_of(out_BTHE):  # Triton launches on the current device
        _fold[(triton.cdiv(T, BM) * H, B)](
            out_BTHE, lse_BHT, q, k, v, sink_logit_H, *out_BTHE.stride()[:3], *strides, H, kv_heads, T, N,
            scale * LOG2E, D=D, E=E, PD=PD, PE=PE, PN=min(MOST, PN), BM=BM, HAS_STRIP=strip is not None,
            HAS_SINK=sink_logit_H is not None, num_warps=WARPS,
        )  # fmt: skip


def fa3_attention(
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    v_BGSE: Tensor,
    *,
    scale: float,
    window: int | None = None,
    strip: Strip | None = None,
    sink_logit_H: Tensor | None = None,
    softcap: float | None = None,
    slope_H: Tensor | None = None,
) -> Tensor:
    """As `reference.stream_attention`, for half precision on Hopper, D = E ≤ 256, no softcap and no ALiBi.

    Nothing is copied: the operator takes strides, which TMA asks to be multiples of 16 bytes.
    """
    assert softcap is None
    assert slope_H is None
    G, S = k_BGSD.shape[1:3]
    # The heads of a group as rows of one tile: fewer pairs that are masked, which gains where, in narrow heads, the
    # exponential of a pair takes as long as its products.
    packed = True if q_BHTD.shape[1] > G and q_BHTD.shape[-1] <= 64 else None
    out_BTHE, lse_BHT, *_ = torch.ops.flash_attn_3.fwd(
        *(x.transpose(1, 2) for x in (q_BHTD, k_BGSD, v_BGSE)), softmax_scale=scale, is_causal=True,
        window_size_left=-1 if window is None else min(window, S), window_size_right=0, num_splits=1, pack_gqa=packed,
    )  # fmt: skip
    if strip is not None or sink_logit_H is not None:
        fold(out_BTHE, lse_BHT, strip, sink_logit_H, kv_heads=G, scale=scale)
    return out_BTHE.transpose(1, 2)
