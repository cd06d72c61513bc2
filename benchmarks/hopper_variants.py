"""Ways to write the Triton kernel of `stream_attention` for Hopper: what `hopper.py` times beside today's."""

from functools import cache, lru_cache

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from sinkctl.kernels.sink_attention import stock
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
    HEADS_FIRST: tl.constexpr, LAST: tl.constexpr,
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
    if not LAST:
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
    if LAST:
        raw = tl.load(faced + h * rh + rows * rt + d[None, :], live, 0.0)
        k_tile = tl.load(k_strip + g * N * D + n[None, :] * D + d[:, None], n[None, :] < N, 0.0)
        v_tile = tl.load(v_strip + g * N * D + n[:, None] * D + d[None, :], n[:, None] < N, 0.0)
        score = tl.where(n[None, :] < N, tl.dot(raw, k_tile) * scale, -1e30)
        m_new = tl.maximum(m, tl.max(score, 1))
        p = tl.exp2(score - m_new[:, None])
        shrink = tl.exp2(m - m_new)
        norm = norm * shrink + tl.sum(p, 1)
        acc = tl.dot(p.to(v_tile.dtype), v_tile, acc * shrink[:, None])
    tl.store(out + h * oh + rows * ot + d[None, :], (acc / norm[:, None]).to(out.dtype.element_ty), live)


def attention(
    q_BHTD, k_BGSD, v_BGSD, *, scale, window, strip: Strip, sink_logit_H=None,
    tile=(128, 64), warps=8, stages=3, host=False, ws=False, heads_first=False, last=False, registers=None,
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
        D=D, PN=16, BM=BM, BN=BN, HOST=host, WS=ws, HEADS_FIRST=heads_first, LAST=last,
        num_warps=warps, num_stages=stages, maxnreg=registers,
    )  # fmt: skip
    return out


@triton.jit
def _read(x, out, BLOCK: tl.constexpr, TIMES: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * (BLOCK * TIMES) + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for _ in tl.range(0, TIMES):
        total += tl.load(x + at)
        at += BLOCK
    tl.store(out + tl.program_id(0), tl.sum(total, 0))


def read(x: torch.Tensor) -> torch.Tensor:
    """Sums of 256 KiB pieces of float32."""
    out = x.new_empty(x.numel() // (1 << 16))
    _read[(len(out),)](x, out, BLOCK=4096, TIMES=16, num_warps=8)
    return out


class Banded(stock.Stock):
    """A window by cuDNN's own graphs (nvidia-cudnn-frontend), forward and backward."""

    def forward(self, q, k, v):
        q, k, v = (x.detach() for x in (q, k, v))
        out = torch.empty_like(q)
        lse = torch.empty(*q.shape[:3], 1, dtype=torch.float32, device=q.device)
        run(_graph(False, *map(_layout, (q, k, v, out, lse)), self.scale, self.window), q, k, v, out, lse)
        return out, lse[..., 0]

    def backward(self, grad, q, k, v, out, lse):
        grad = grad if grad.stride() == out.stride() else torch.empty_like(out).copy_(grad)
        lse, grads = lse.contiguous()[..., None], tuple(map(torch.empty_like, (q, k, v)))
        tensors = (q, k, v, out, lse, grad, *grads)
        run(_graph(True, *map(_layout, tensors), self.scale, self.window), *tensors)
        return grads


class Fa3Banded(Banded):
    def forward(self, q, k, v):
        return stock.Fa3(self.scale, self.window, None).forward(q, k, v)[:2]


class Fa3Cudnn(stock.Cudnn):
    def forward(self, q, k, v):
        out, lse, *_ = stock.Fa3(self.scale, None, None).forward(q, k, v)
        none = torch.zeros((), dtype=torch.int64, device=q.device)
        return out, lse, none, none


def _layout(x):
    return tuple(x.shape), x.stride(), x.dtype


@cache
def _handle():
    import cudnn

    return cudnn.create_handle()


@lru_cache(maxsize=32)
def _graph(backward, *described):
    import cudnn

    *layouts, scale, window = described
    kinds = {torch.bfloat16: cudnn.data_type.BFLOAT16, torch.float16: cudnn.data_type.HALF}
    kinds[torch.float32] = cudnn.data_type.FLOAT
    graph = cudnn.pygraph(
        io_data_type=kinds[layouts[0][2]], intermediate_data_type=cudnn.data_type.FLOAT,
        compute_data_type=cudnn.data_type.FLOAT, handle=_handle(),
    )  # fmt: skip
    given = layouts[:6] if backward else layouts[:3]
    put = [graph.tensor(dim=list(dim), stride=list(stride), data_type=kinds[dtype]) for dim, stride, dtype in given]
    band = dict(
        attn_scale=scale, diagonal_alignment=cudnn.diagonal_alignment.TOP_LEFT, diagonal_band_right_bound=0,
        diagonal_band_left_bound=window + 1,
    )  # fmt: skip
    if backward:
        names = ("q", "k", "v", "o", "stats", "dO")
        got = graph.sdpa_backward(name="backward", **dict(zip(names, put, strict=True)), **band)
    else:
        got = graph.sdpa(name="forward", **dict(zip("qkv", put, strict=True)), generate_stats=True, **band)
    for tensor, (dim, stride, dtype) in zip(got, layouts[len(given) :], strict=True):
        tensor.set_output(True).set_dim(list(dim)).set_stride(list(stride)).set_data_type(kinds[dtype])
    graph.validate()
    graph.build_operation_graph()
    graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
    graph.check_support()
    graph.build_plans()
    return graph, (*put, *got)


def run(made, *tensors):
    import cudnn

    graph, places = made
    cudnn.set_stream(handle=_handle(), stream=torch.cuda.current_stream().cuda_stream)
    workspace = torch.empty(graph.get_workspace_size(), dtype=torch.uint8, device=tensors[0].device)
    graph.execute(dict(zip(places, tensors, strict=True)), workspace, handle=_handle())
