"""`sink_attention` by torch's flash operators, forward and backward: no kernel of our own. Shapes: `reference.py`.

Flash attention's backward needs only the weights, exp(score − lse), and D = rowsum(dO·O). A sink adds its weight to
the sum, lse' = logaddexp(lse, logit), and leaves O = exp(lse − lse')·(stock output) + p·sink_value, p = exp(logit −
lse'). So the stock backward, given this O and this lse', computes the exact dQ, dK and dV. What is left is the sink's:
dlogit = p·(⟨dO, sink_value⟩ − D) and dsink_value = Σ p·dO.

(The other way, scaling a flash output by σ(lse − logit) under autograd, loses the gradient through lse, which flash
operators do not give: dQ and dK would be wrong.)
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from sinkctl.kernels.present import triton_runs
from sinkctl.kernels.sink_attention.reference import per_query, per_query_head, sink_value_H1D, visible

aten = torch.ops.aten


def sink_attention(
    q_BHTD: Tensor,
    k_BGTD: Tensor,
    v_BGTD: Tensor,
    sink_logit: Tensor | None = None,
    sink_value_GD: Tensor | None = None,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    documents_N: Tensor | None = None,
) -> Tensor:
    """As `reference.sink_attention`, without softcap; on CUDA in half precision, D ≤ 256 and a multiple of 8.

    `documents_N` on the CPU tells the CUDA operator the longest document without waiting for the device.
    """
    assert softcap is None
    assert sink_logit is not None or sink_value_GD is None
    stock = (_Cuda if q_BHTD.is_cuda else _Cpu)(scale, window, documents_N)
    return _SinkFlash.apply(q_BHTD, k_BGTD, v_BGTD, sink_logit, sink_value_GD, stock)


class _SinkFlash(Function):
    @staticmethod
    def forward(ctx, q_BHTD, k_BGTD, v_BGTD, sink_logit, sink_value_GD, stock: "_Stock") -> Tensor:
        out_BHTD, lse_BHT, *kept = stock.forward(q_BHTD, k_BGTD, v_BGTD)
        if sink_logit is not None:
            value_H1D = None if sink_value_GD is None else sink_value_H1D(sink_value_GD, q_BHTD).to(lse_BHT.dtype)
            beside = _fused(_beside) if q_BHTD.is_cuda else _beside
            out_BHTD, lse_BHT = beside(out_BHTD, lse_BHT, per_query(sink_logit.to(lse_BHT.dtype)), value_H1D)
        ctx.save_for_backward(q_BHTD, k_BGTD, v_BGTD, sink_logit, sink_value_GD, out_BHTD, lse_BHT, *kept)
        ctx.stock = stock
        return out_BHTD

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_BHTD: Tensor):
        q_BHTD, k_BGTD, v_BGTD, sink_logit, sink_value_GD, out_BHTD, lse_BHT, *kept = ctx.saved_tensors
        grads, grad_logit, grad_value_GD = (None, None, None), None, None
        if any(ctx.needs_input_grad[:3]):
            grads = ctx.stock.backward(grad_BHTD, q_BHTD, k_BGTD, v_BGTD, out_BHTD, lse_BHT, *kept)
        if any(ctx.needs_input_grad[3:5]):
            taken_BHT = (per_query(sink_logit.to(lse_BHT.dtype)) - lse_BHT).exp_()
        if ctx.needs_input_grad[3]:
            value_H1D = None if sink_value_GD is None else sink_value_H1D(sink_value_GD, q_BHTD).to(lse_BHT.dtype)
            along = _fused(_along) if q_BHTD.is_cuda else _along
            grad_logit = taken_BHT * along(grad_BHTD, out_BHTD, value_H1D, lse_BHT.dtype)
            grad_logit = (grad_logit.sum((0, 2)) if sink_logit.dim() == 1 else grad_logit).to(sink_logit.dtype)
        if ctx.needs_input_grad[4]:
            grad_value_H1D = (taken_BHT[..., None, :] @ grad_BHTD.to(lse_BHT.dtype)).sum(0)
            grad_value_GD = grad_value_H1D.view(*sink_value_GD.shape[:1], -1, *grad_BHTD.shape[3:]).sum(1)
            grad_value_GD = grad_value_GD.to(sink_value_GD.dtype)
        return *grads, grad_logit, grad_value_GD, None


def _beside(out_BHTD: Tensor, lse_BHT: Tensor, logit: Tensor, value_H1D: Tensor | None) -> tuple[Tensor, Tensor]:
    """(output, log-sum-exp) with the sink as one more outcome; in the softmax's precision, rounded once."""
    whole_BHT = torch.logaddexp(lse_BHT, logit)
    whole_BHTD = out_BHTD * (lse_BHT - whole_BHT).exp()[..., None]
    if value_H1D is not None:
        whole_BHTD = whole_BHTD + (logit - whole_BHT).exp()[..., None] * value_H1D
    return whole_BHTD.to(out_BHTD.dtype), whole_BHT


def _along(grad_BHTD: Tensor, out_BHTD: Tensor, value_H1D: Tensor | None, precise: torch.dtype) -> Tensor:
    """⟨dO, sink_value − O⟩, [B, H, T]."""
    out_BHTD = out_BHTD.to(precise)
    return (grad_BHTD.to(precise) * (-out_BHTD if value_H1D is None else value_H1D - out_BHTD)).sum(-1)


@cache
def _fused(function: Callable) -> Callable:
    """One pass over memory instead of four, where Triton compiles it."""
    return torch.compile(function, dynamic=True) if triton_runs()[0] else function


@dataclass(frozen=True)
class _Stock:
    """How a stock operator is called: `forward` gives out_BHTD, lse_BHT and what else `backward` asks for."""

    scale: float
    window: int | None
    documents_N: Tensor | None


class _Cpu(_Stock):
    """torch's flash operator for CPUs: any float; windows and documents are a mask."""

    def forward(self, q_BHTD, k_BGTD, v_BGTD):
        k_BHTD, v_BHTD = (per_query_head(x, q_BHTD) for x in (k_BGTD, v_BGTD))
        return aten._scaled_dot_product_flash_attention_for_cpu(q_BHTD, k_BHTD, v_BHTD, 0.0, **self._seen(q_BHTD))

    def backward(self, grad_BHTD, q_BHTD, k_BGTD, v_BGTD, out_BHTD, lse_BHT):
        k_BHTD, v_BHTD = (per_query_head(x, q_BHTD) for x in (k_BGTD, v_BGTD))
        seen = self._seen(q_BHTD)
        grad_q, *grads = aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad_BHTD.contiguous(), q_BHTD, k_BHTD, v_BHTD, out_BHTD, lse_BHT, 0.0, seen.pop("is_causal"), **seen
        )
        return grad_q, *(x.unflatten(1, (k_BGTD.shape[1], -1)).sum(2) for x in grads)

    def _seen(self, q_BHTD) -> dict:
        options = dict(is_causal=True, attn_mask=None, scale=self.scale)
        if self.documents_N is None and (self.window is None or self.window >= q_BHTD.shape[2] - 1):
            return options
        seen_BTS = visible(q_BHTD, self.window, self.documents_N)
        mask_B1TS = torch.zeros_like(seen_BTS, dtype=q_BHTD.dtype).masked_fill_(~seen_BTS, -torch.inf)[:, None]
        return options | dict(is_causal=False, attn_mask=mask_B1TS)


class _Cuda(_Stock):
    """torch's flash operator for CUDA: half precision; windows cut, documents as sequences of one long row."""

    def forward(self, q_BHTD, k_BGTD, v_BGTD):
        B, _, T, _ = q_BHTD.shape
        begins_N, longest = self._cuts(q_BHTD)
        q, k, v = (self._laid_out(x) for x in (q_BHTD, k_BGTD, v_BGTD))
        out, lse, state, unused, _ = aten._flash_attention_forward(
            q, k, v, begins_N, begins_N, longest, longest, 0.0, True, False, **self._options()
        )
        if begins_N is not None:
            out, lse = out.unflatten(0, (B, T)), lse.unflatten(1, (B, T)).transpose(0, 1)
        return out.transpose(1, 2), lse, state, unused

    def backward(self, grad_BHTD, q_BHTD, k_BGTD, v_BGTD, out_BHTD, lse_BHT, state, unused):
        B, _, T, _ = q_BHTD.shape
        begins_N, longest = self._cuts(q_BHTD)
        lse = lse_BHT.contiguous() if begins_N is None else lse_BHT.transpose(0, 1).flatten(1).contiguous()
        grad, q, k, v, out = (self._laid_out(x) for x in (grad_BHTD, q_BHTD, k_BGTD, v_BGTD, out_BHTD))
        grads = aten._flash_attention_backward(
            grad, q, k, v, out, lse, begins_N, begins_N, longest, longest, 0.0, True, state, unused, **self._options()
        )
        return tuple((x if begins_N is None else x.unflatten(0, (B, T))).transpose(1, 2) for x in grads)

    def _laid_out(self, x_BHTD: Tensor) -> Tensor:
        """[B, T, H, D], or [B·T, H, D] where there are documents; the operator asks for the last dimension's stride."""
        x = (x_BHTD if x_BHTD.stride(-1) == 1 else x_BHTD.contiguous()).transpose(1, 2)
        return x if self.documents_N is None else x.flatten(0, 1)

    def _cuts(self, q_BHTD) -> tuple[Tensor | None, int]:
        """Where the documents begin, and a bound of their length: the exact one if the CPU knows it."""
        T = q_BHTD.shape[2]
        if self.documents_N is None:
            return None, T
        longest = T if self.documents_N.is_cuda else int(self.documents_N.diff().max())
        return self.documents_N.to(q_BHTD.device, torch.int32, non_blocking=True).contiguous(), longest

    def _options(self) -> dict:
        return dict(scale=self.scale, window_size_left=self.window, window_size_right=0)
