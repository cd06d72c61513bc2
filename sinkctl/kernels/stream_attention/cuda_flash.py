"""`stream_attention` by torch's CUDA flash operator for the band, and a merged strip. Shapes as in `reference.py`."""

import torch
from torch import Tensor

from sinkctl.kernels.stream_attention.reference import Strip
from sinkctl.kernels.stream_attention.tiled import discount, matmul_partial, merge


def cuda_flash(
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
    """As `reference.stream_attention`, for half precision, D = E ≤ 256, no softcap and no ALiBi."""
    assert softcap is None
    assert slope_H is None
    (B, H, T, D), G, S = q_BHTD.shape, k_BGSD.shape[1], k_BGSD.shape[2]
    out_BTHE, lse_BHT = torch.ops.aten._flash_attention_forward(
        q_BHTD.transpose(1, 2), k_BGSD.transpose(1, 2), v_BGSE.transpose(1, 2), None, None, T, S, 0.0, True, False,
        scale=scale, window_size_left=None if window is None else min(window, S), window_size_right=0,
    )[:2]  # fmt: skip
    out = out_BTHE.transpose(1, 2)
    if strip is not None:
        fold = (B * G, H // G)
        faced, faced_lse = matmul_partial(
            strip.q_BHTD.reshape(*fold, T, D), strip.k_BGND.reshape(B * G, 1, -1, D),
            strip.v_BGNE.reshape(B * G, 1, -1, v_BGSE.shape[-1]), None, scale, None,
        )  # fmt: skip
        out, lse_BHT = merge(out, lse_BHT, faced.reshape(B, H, T, -1), faced_lse.reshape(B, H, T))
    return out if sink_logit_H is None else discount(out, lse_BHT, sink_logit_H)
