"""`stream_attention` in tiles of queries, each against only the keys it can see, merged by log-sum-exp.

Shapes as in `reference.py`, after the query heads of a key/value head are folded into one axis: A = B·G, R = H/G.
"""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from sinkctl.kernels import linear
from sinkctl.kernels.stream_attention.reference import Strip

# Wide enough for the matrix product, narrow enough that a short window wastes little (measured on a CPU: 96-192 alike;
# on an H200 256 takes 0.5 to 1.0 of what 128 takes, which waits for launches).
TILE, ON_GPU = 128, 256
CACHED = 1 << 18  # scores of a key/value head at a time that stay in the cache of a CPU's core

# (q_ARTD, k_ARSD, v_ARSE, mask or None, scale, softcap) → (out_ARTE, lse_ART); the mask, [T, S] or any shape that
# broadcasts to [A, R, T, S], is added to the scores.
Partial = Callable[..., tuple[Tensor, Tensor]]


def matmul_partial(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, softcap: float | None):
    """Attention and log-sum-exp by two matrix products: any device, dtype, width and softcap."""
    precise = torch.promote_types(q.dtype, torch.float32)
    score = (q @ k.mT).to(precise) * scale
    if softcap is not None:
        score = softcap * torch.tanh(score / softcap)
    if mask is not None:
        score = score + mask
    lse = score.logsumexp(-1)
    return (score - lse[..., None]).exp().to(v.dtype) @ v, lse


def cpu_flash_partial(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, softcap: float | None):
    """The same by torch's CPU flash operator (float32 and float64, equal widths, no softcap)."""
    assert softcap is None
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, False, attn_mask=mask, scale=scale)


def linear_partial(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, softcap: float | None):
    """The same a key/value head at a time, by the products of `kernels.linear`: without gradients, any width."""
    (A, R, T, _), S, E = q.shape, k.shape[2], v.shape[-1]
    product, _ = linear.select(k)
    out, lse, q = q.new_empty(A, R, T, E), q.new_empty(A, R, T), q * scale
    size = max(16, -(-T // max(1, -(-T * R * S // CACHED))))  # in pieces of one length
    for a in range(A):
        k_SD, v_ES = k[a, 0].contiguous(), v[a, 0].contiguous().mT  # once, and not for every piece
        for start in range(0, T, size):
            part = a, slice(None), slice(start, start + size)
            score = product(q[part].flatten(0, 1), k_SD).unflatten(0, (R, -1))
            if softcap is not None:
                score = softcap * torch.tanh(score / softcap)
            if mask is not None:
                score += mask.expand(A, R, T, S)[part]
            weight = score.softmax(-1)
            out[part] = product(weight.flatten(0, 1), v_ES).unflatten(0, (R, -1))
            lse[part] = score.amax(-1) - weight.amax(-1).log()  # the softmax of the greatest score is e^(it − lse)
    return out, lse


def linear_gains(q: Tensor) -> tuple[bool, str]:
    """Whether `linear_partial` is the fastest on a CPU (it is from widths of 64 on), and what its products are."""
    product, reason = linear.select(q)
    gains = product.name != "torch" and q.shape[-1] >= 64 and not (q.requires_grad and torch.is_grad_enabled())
    return gains, f"products by {product.name}: {reason}"


def partial_for(q: Tensor, v: Tensor, softcap: float | None) -> Partial:
    """The fastest of the three that knows how."""
    if linear_gains(q)[0]:
        return linear_partial
    flash = q.device.type == "cpu" and softcap is None and q.shape[-1] == v.shape[-1]
    return cpu_flash_partial if flash else matmul_partial


def tiled(
    partial: Partial,
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
    """As `reference.stream_attention`, in memory of one tile of scores; in float32 on a CPU, where half is slower."""
    asked = q_BHTD.dtype
    if q_BHTD.device.type == "cpu" and asked in (torch.float16, torch.bfloat16):
        q_BHTD, k_BGSD, v_BGSE = q_BHTD.float(), k_BGSD.float(), v_BGSE.float()
        strip = strip and Strip(*(x.float() for x in strip[:3]), strip.distance_N)
    out_BHTE, lse_BHT = with_lse(
        partial, q_BHTD, k_BGSD, v_BGSE, scale=scale, window=window, strip=strip, softcap=softcap, slope_H=slope_H
    )
    return (out_BHTE if sink_logit_H is None else discount(out_BHTE, lse_BHT, sink_logit_H)).to(asked)


def with_lse(
    partial: Partial,
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    v_BGSE: Tensor,
    *,
    scale: float,
    window: int | None = None,
    strip: Strip | None = None,
    softcap: float | None = None,
    slope_H: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The same without a sink logit, and the log-sum-exp of each query's scores, [B, H, T]."""
    B, H, T, _ = q_BHTD.shape
    G, S = k_BGSD.shape[1:3]

    def fold_queries(x: Tensor) -> Tensor:
        return x.reshape(B * G, H // G, T, -1)

    def fold_keys(x: Tensor) -> Tensor:  # a stride of 0 serves every query head of the group: nothing is copied
        return x.reshape(B * G, 1, x.shape[2], -1).expand(-1, H // G, -1, -1)

    q, k, v = fold_queries(q_BHTD), fold_keys(k_BGSD), fold_keys(v_BGSE)
    reach = S if window is None else min(window, S)
    precise = torch.promote_types(q.dtype, torch.float32)
    out = q.new_empty(*q.shape[:3], v.shape[-1])
    lse = q.new_empty(q.shape[:3], dtype=precise)
    slope = None if slope_H is None else slope_H.to(precise).view(G, H // G, 1, 1).repeat(B, 1, 1, 1)
    mask, masked = None, None
    size = TILE if q_BHTD.device.type == "cpu" else ON_GPU
    for start in range(0, T, size):
        end = min(start + size, T)
        first, here = max(0, S - T + start - reach), S - T + start
        tile = slice(start, end)
        if window is None and here > 0:  # all of the past is visible: no mask, and none of its size is built
            past = _before(partial, q[:, :, tile], k[:, :, :here], v[:, :, :here], scale, softcap, slope)
            first = here
        if masked != (end - start, here - first):  # inner tiles share one mask, which ALiBi makes one a head
            masked = end - start, here - first
            mask = _mask(*masked, reach, slope, precise, q.device)
        keys = slice(first, S - T + end)
        part = partial(q[:, :, tile], k[:, :, keys], v[:, :, keys], mask, scale, softcap)
        out[:, :, tile], lse[:, :, tile] = part if window is not None or here == 0 else merge(*past, *part)
    if strip is not None:
        fall = None if slope is None else -slope * strip.distance_N
        faced = partial(
            fold_queries(strip.q_BHTD), fold_keys(strip.k_BGND), fold_keys(strip.v_BGNE), fall, scale, softcap
        )
        out, lse = merge(out, lse, *faced)
    return out.reshape(B, H, T, -1), lse.reshape(B, H, T)


def merge(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
    """Attention over the union of two disjoint key sets, from the attention and log-sum-exp over each."""
    lse = torch.logaddexp(lse_a, lse_b)
    share_a, share_b = (lse_a - lse).exp()[..., None], (lse_b - lse).exp()[..., None]
    return (out_a * share_a + out_b * share_b).to(out_a.dtype), lse


def discount(out_BHTE: Tensor, lse_BHT: Tensor, sink_logit_H: Tensor) -> Tensor:
    """Give a learned sink logit its share of the softmax."""
    kept_BHT = torch.sigmoid(lse_BHT - sink_logit_H.to(lse_BHT.dtype)[None, :, None])
    return (out_BHTE * kept_BHT[..., None]).to(out_BHTE.dtype)


def _before(partial: Partial, q: Tensor, k: Tensor, v: Tensor, scale: float, softcap: float | None, slope):
    """Attention to keys that end where the queries start, all of them visible.

    With ALiBi the distances are those of the first query, one row for all; a later query is farther from every key
    alike, which its softmax does not see and its log-sum-exp is told.
    """
    if slope is None:
        return partial(q, k, v, None, scale, softcap)
    out, lse = partial(q, k, v, -slope * torch.arange(k.shape[2], 0, -1, device=q.device), scale, softcap)
    return out, lse - slope[..., 0] * torch.arange(q.shape[2], device=q.device)


def _mask(rows: int, before: int, reach: int, slope, dtype: torch.dtype, device: torch.device) -> Tensor:
    band = _band_mask(rows, before, reach, dtype, device)
    return band if slope is None else band - slope * _distance(rows, before, device)


def _distance(rows: int, before: int, device: torch.device) -> Tensor:
    return before + torch.arange(rows, device=device)[:, None] - torch.arange(before + rows, device=device)


@lru_cache(maxsize=64)  # inner tiles of a stream share one mask
def _band_mask(rows: int, before: int, reach: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """0 where query i sees key j, −inf elsewhere; the keys start `before` positions before the first query."""
    distance = _distance(rows, before, device)
    hidden = (distance < 0) | (distance > reach)
    return torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, -torch.inf)
