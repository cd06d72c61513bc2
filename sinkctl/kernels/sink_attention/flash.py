"""`sink_attention` by stock fused operators, forward and backward: no kernel of our own. Shapes: `reference.py`.

Flash attention's backward needs only the weights, exp(score − lse), and D = rowsum(dO·O). A sink adds its weight to
the sum, lse' = logaddexp(lse, logit), and leaves O = exp(lse − lse')·(stock output) + p·sink_value, p = exp(logit −
lse'). So the stock backward, given this O and this lse', computes the exact dQ, dK and dV. What is left is the sink's:
dlogit = p·(⟨dO, sink_value⟩ − D) and dsink_value = Σ p·dO.

(The other way, scaling a flash output by σ(lse − logit) under autograd, loses the gradient through lse, which flash
operators do not give: dQ and dK would be wrong.)
"""

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from sinkctl.kernels.fused import fused
from sinkctl.kernels.sink_attention import stock
from sinkctl.kernels.sink_attention.reference import per_query, sink_value_H1D


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
    by: type[stock.Stock] | None = None,
) -> Tensor:
    """As `reference.sink_attention`, without softcap; on CUDA in half precision, D ≤ 256 and a multiple of 8.

    `by` names the stock operators (None: torch's flash operators). `documents_N` on the CPU tells those of CUDA the
    longest document without waiting for the device.
    """
    assert softcap is None
    assert sink_logit is not None or sink_value_GD is None
    kind = by or (stock.Cuda if q_BHTD.is_cuda else stock.Cpu)
    return _SinkFlash.apply(q_BHTD, k_BGTD, v_BGTD, sink_logit, sink_value_GD, kind(scale, window, documents_N))


class _SinkFlash(Function):
    @staticmethod
    def forward(ctx, q_BHTD, k_BGTD, v_BGTD, sink_logit, sink_value_GD, operators: stock.Stock) -> Tensor:
        out_BHTD, lse_BHT, *kept = operators.forward(q_BHTD, k_BGTD, v_BGTD)
        if sink_logit is not None:
            value_H1D = None if sink_value_GD is None else sink_value_H1D(sink_value_GD, q_BHTD).to(lse_BHT.dtype)
            out_BHTD, lse_BHT = fused(_beside, q_BHTD.device)(
                out_BHTD, lse_BHT, per_query(sink_logit.to(lse_BHT.dtype)), value_H1D
            )
        ctx.save_for_backward(q_BHTD, k_BGTD, v_BGTD, sink_logit, sink_value_GD, out_BHTD, lse_BHT, *kept)
        ctx.operators = operators
        return out_BHTD

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_BHTD: Tensor):
        q_BHTD, k_BGTD, v_BGTD, sink_logit, sink_value_GD, out_BHTD, lse_BHT, *kept = ctx.saved_tensors
        grads, grad_logit, grad_value_GD = (None, None, None), None, None
        if any(ctx.needs_input_grad[:3]):
            grads = ctx.operators.backward(grad_BHTD, q_BHTD, k_BGTD, v_BGTD, out_BHTD, lse_BHT, *kept)
        if any(ctx.needs_input_grad[3:5]):
            taken_BHT = (per_query(sink_logit.to(lse_BHT.dtype)) - lse_BHT).exp_()
        if ctx.needs_input_grad[3]:
            value_H1D = None if sink_value_GD is None else sink_value_H1D(sink_value_GD, q_BHTD).to(lse_BHT.dtype)
            grad_logit = taken_BHT * fused(_along, q_BHTD.device)(grad_BHTD, out_BHTD, value_H1D, lse_BHT.dtype)
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
