"""Ways to write the Triton kernel of `stream_attention` for Hopper: what `hopper.py` times beside today's."""

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from sinkctl.kernels.sink_attention import flash, stock
from sinkctl.kernels.stream_attention.reference import Strip

LOG2E = 1.4426950408889634


@triton.jit
def _tile(x, j, S, stride, D: tl.constexpr, BN: tl.constexpr, b, g, start, HOST: tl.constexpr, MASKED: tl.constexpr):
    """[BN, D] rows."""
    if HOST:
        tile = x.load([b, g, start, 0]).reshape(BN, D)
    else:
        d = tl.arange(0, D)
        if MASKED:
            tile = tl.load(x + j.to(tl.int64)[:, None] * stride + d[None, :], j[:, None] < S, 0.0)
        else:
            tile = tl.load(x + j.to(tl.int64)[:, None] * stride + d[None, :])
    return tile


@triton.jit
def _band(
    m, norm, acc, q, k, v, ks, vs, b, g, here, low, steps, gap_at, gap, S, window, scale,
    D: tl.constexpr, BN: tl.constexpr, HOST: tl.constexpr, MASKED: tl.constexpr, WS: tl.constexpr,
):  # fmt: skip
    for step in tl.range(0, steps, warp_specialize=WS):
        start = low + step * BN
        if MASKED:  # the two edges of the band in one loop
            start = tl.where(step < gap_at, start, start + gap)
        start = tl.multiple_of(start, BN)
        j = start + tl.arange(0, BN)
        product = tl.dot(q, _tile(k, j, S, ks, D, BN, b, g, start, HOST, MASKED).T)
        if MASKED:
            distance = here[:, None] - j[None, :]
            product = tl.where((distance >= 0) & (distance <= window), product, -1e30)
        m_new = tl.maximum(m, tl.max(product, 1) * scale)
        p = tl.exp2(product * scale - m_new[:, None])
        shrink = tl.exp2(m - m_new)
        norm = norm * shrink + tl.sum(p, 1)
        acc = tl.dot(p.to(q.dtype), _tile(v, j, S, vs, D, BN, b, g, start, HOST, MASKED), acc * shrink[:, None])
        m = m_new
    return m, norm, acc


@triton.jit
def _kernel(
    q, k, v, faced, k_strip, v_strip, out,
    qh, qt, kh, ks, vh, vs, rh, rt, oh, ot,
    H, G, T, S, N, window, scale,
    D: tl.constexpr, PN: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, HOST: tl.constexpr, WS: tl.constexpr,
    HEADS_FIRST: tl.constexpr,
):  # fmt: skip
    if HEADS_FIRST:
        h, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    else:
        tile, h = tl.program_id(0), tl.program_id(1).to(tl.int64)
    g = h // (H // G)
    i = tile * BM + tl.arange(0, BM)
    d, n = tl.arange(0, D), tl.arange(0, PN)
    live, rows = i[:, None] < T, i.to(tl.int64)[:, None]
    acc = tl.zeros([BM, D], tl.float32)
    m = tl.zeros([BM], tl.float32) - 1e30
    norm = tl.zeros([BM], tl.float32)
    raw = tl.load(faced + h * rh + rows * rt + d[None, :], live, 0.0)
    k_tile = tl.load(k_strip + g * N * D + n[None, :] * D + d[:, None], n[None, :] < N, 0.0)
    v_tile = tl.load(v_strip + g * N * D + n[:, None] * D + d[None, :], n[:, None] < N, 0.0)
    score = tl.where(n[None, :] < N, tl.dot(raw, k_tile) * scale, -1e30)
    m = tl.max(score, 1)
    p = tl.exp2(score - m[:, None])
    norm = tl.sum(p, 1)
    acc = tl.dot(p.to(v_tile.dtype), v_tile)
    q_tile = tl.load(q + h * qh + rows * qt + d[None, :], live, 0.0)
    first_query = S - T + tile * BM
    here = S - T + i
    first = tl.maximum(0, first_query - window) // BN * BN
    end = tl.minimum(S, first_query + BM)
    diagonal = tl.maximum(first, (first_query + 1) // BN * BN)
    middle = tl.maximum(first, tl.cdiv(tl.maximum(0, first_query + BM - 1 - window), BN) * BN)
    middle = tl.minimum(middle, diagonal)
    left = (middle - first) // BN
    if not HOST:
        k += g * kh
        v += g * vh
    gi = g.to(tl.int32)
    m, norm, acc = _band(m, norm, acc, q_tile, k, v, ks, vs, 0, gi, here, first, left + tl.cdiv(end - diagonal, BN),
                         left, diagonal - middle, S, window, scale, D, BN, HOST, True, False)  # fmt: skip
    m, norm, acc = _band(m, norm, acc, q_tile, k, v, ks, vs, 0, gi, here, middle, (diagonal - middle) // BN,
                         0, 0, S, window, scale, D, BN, HOST, False, WS)  # fmt: skip
    tl.store(out + h * oh + rows * ot + d[None, :], (acc / norm[:, None]).to(out.dtype.element_ty), live)


def attention(
    q_BHTD, k_BGSD, v_BGSD, *, scale, window, strip: Strip, sink_logit_H=None,
    tile=(128, 64), warps=8, stages=3, host=False, ws=False, heads_first=False,
):  # fmt: skip
    (B, H, T, D), (G, S) = q_BHTD.shape, k_BGSD.shape[1:3]
    assert B == 1
    assert sink_logit_H is None
    BM, BN = tile
    out_BTHD = torch.empty(B, T, H, D, dtype=q_BHTD.dtype, device=q_BHTD.device)
    out = out_BTHD.transpose(1, 2)
    k_strip, v_strip = strip.k_BGND.contiguous(), strip.v_BGNE.contiguous()
    k, v = (
        TensorDescriptor(x, list(x.shape), list(x.stride()), [1, 1, BN, D]) if host else x for x in (k_BGSD, v_BGSD)
    )
    grid = (triton.cdiv(T, BM), H)
    _kernel[grid[::-1] if heads_first else grid](
        q_BHTD, k, v, strip.q_BHTD, k_strip, v_strip, out,
        *q_BHTD.stride()[1:3], *k_BGSD.stride()[1:3], *v_BGSD.stride()[1:3], *strip.q_BHTD.stride()[1:3],
        *out.stride()[1:3], H, G, T, S, k_strip.shape[2], window, scale * LOG2E,
        D=D, PN=16, BM=BM, BN=BN, HOST=host, WS=ws, HEADS_FIRST=heads_first, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return out


class Halves(stock.Stock):
    """A window by cuDNN's causal operator: blocks of W tokens, each with itself and, both turned round, with the last.

    Query i of a block sees keys i … W−1 of the block before (distance W − i + … ≤ W): from behind, that is causal.
    """

    def forward(self, q_BHTD, k_BGTD, v_BGTD):
        q, k, v = (self._blocks(x) for x in (q_BHTD, k_BGTD, v_BGTD))
        own, own_lse, *kept = self._fused(q, k, v)
        turned, turned_lse, *kept_turned = self._fused(*(x.flip(2) for x in (q[1:], k[:-1], v[:-1])))
        out, lse = _joined(own, own_lse, turned, turned_lse)
        T = q_BHTD.shape[2]
        return self._rows(out)[:, :, :T], lse.transpose(0, 1).flatten(1)[None, :, :T], *kept, *kept_turned

    def backward(self, grad_BHTD, q_BHTD, k_BGTD, v_BGTD, out_BHTD, lse_BHT, *kept):
        grad, q, k, v, out = (self._blocks(x) for x in (grad_BHTD, q_BHTD, k_BGTD, v_BGTD, out_BHTD))
        lse = self._blocks(lse_BHT[..., None])[..., 0]
        dq, dk, dv = self._fused_backward(grad, q, k, v, out, lse, *kept[:2])
        turned = (grad[1:], q[1:], k[:-1], v[:-1], out[1:], lse[1:])
        more = [x.flip(2) for x in self._fused_backward(*(x.flip(2) for x in turned), *kept[2:])]
        dq[1:] += more[0]
        dk[:-1] += more[1]
        dv[:-1] += more[2]
        T = q_BHTD.shape[2]
        return tuple(self._rows(x)[:, :, :T] for x in (dq, dk, dv))

    def _blocks(self, x_1HTD):
        """[blocks, H, W, D]."""
        x_THD = x_1HTD[0].transpose(0, 1)
        missing = -len(x_THD) % self.window
        x_THD = torch.nn.functional.pad(x_THD, (0, 0, 0, 0, 0, missing)) if missing else x_THD
        return x_THD.unflatten(0, (-1, self.window)).transpose(1, 2)

    @staticmethod
    def _rows(x):
        return x.transpose(1, 2).flatten(0, 1).transpose(0, 1)[None]

    def _fused(self, q, k, v):
        return stock.Cudnn(self.scale, None, None).forward(q, k, v)

    def _fused_backward(self, grad, q, k, v, out, lse, *kept):
        return stock.Cudnn(self.scale, None, None).backward(grad, q, k, v, out, lse, *kept)


def _merged(own, own_lse, turned, turned_lse):
    turned, turned_lse = turned.flip(2), turned_lse.flip(2)
    lse = torch.logaddexp(own_lse, turned_lse)
    out = own * (own_lse - lse).exp()[..., None] + turned * (turned_lse - lse).exp()[..., None]
    return out.to(own.dtype), lse


def _joined(own, own_lse, turned, turned_lse):
    """The first block has none before it."""
    merge = flash._fused(_merged) if own.is_cuda else _merged
    more, more_lse = merge(own[1:], own_lse[1:], turned, turned_lse)
    own[1:], own_lse[1:] = more, more_lse
    return own, own_lse
