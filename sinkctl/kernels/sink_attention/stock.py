"""Stock attention operators, forward and backward, as `flash.py` calls them. Shapes as in `reference.py`."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sinkctl.kernels.sink_attention.reference import per_query_head, visible

aten = torch.ops.aten


@dataclass(frozen=True)
class Stock:
    """How a stock operator is called: `forward` gives out_BHTD, lse_BHT and what else `backward` asks for."""

    scale: float
    window: int | None
    documents_N: Tensor | None


class Cpu(Stock):
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


class Cuda(Stock):
    """torch's flash operator for CUDA: half precision; windows cut, documents as sequences of one long row."""

    def forward(self, q_BHTD, k_BGTD, v_BGTD):
        B, _, T, _ = q_BHTD.shape
        begins_N, longest = self._cuts(q_BHTD)
        q, k, v = (self._laid_out(x) for x in (q_BHTD, k_BGTD, v_BGTD))
        out, lse, *kept = self._fused(q, k, v, begins_N, longest)
        if begins_N is not None:
            out, lse = out.unflatten(0, (B, T)), lse.unflatten(1, (B, T)).transpose(0, 1)
        return out.transpose(1, 2), lse, *kept

    def _fused(self, q, k, v, begins_N, longest: int) -> tuple[Tensor, ...]:
        return aten._flash_attention_forward(
            q, k, v, begins_N, begins_N, longest, longest, 0.0, True, False, **self._options()
        )[:4]

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


class Fa3(Cuda):
    """Forward by FlashAttention-3, whose log-sum-exp is laid out as torch's; its package has no backward."""

    def _fused(self, q, k, v, begins_N, longest):
        cuts = {} if begins_N is None else dict(
            cu_seqlens_q=begins_N, cu_seqlens_k=begins_N, max_seqlen_q=longest, max_seqlen_k=longest
        )  # fmt: skip
        window = -1 if self.window is None else min(self.window, longest)
        out, lse, *_ = torch.ops.flash_attn_3.fwd(
            q, k, v, softmax_scale=self.scale, is_causal=True, window_size_left=window, window_size_right=0,
            num_splits=1, **cuts,
        )  # fmt: skip
        # What the backward would draw dropout with; there is none.
        return out, lse, torch.zeros(2, dtype=torch.uint64, device=q.device), torch.empty(0, device=q.device)


class Cudnn(Stock):
    """cuDNN's operator: half precision, causal, every head of a group with its shared keys as they are."""

    def forward(self, q_BHTD, k_BGTD, v_BGTD):
        assert self.documents_N is None
        assert self.window is None or self.window >= q_BHTD.shape[2] - 1
        found = aten._scaled_dot_product_cudnn_attention(
            q_BHTD, k_BGTD, v_BGTD, None, True, 0.0, True, False, scale=self.scale
        )
        return found[0], found[1].view(q_BHTD.shape[:3]), *found[6:8]

    def backward(self, grad_BHTD, q_BHTD, k_BGTD, v_BGTD, out_BHTD, lse_BHT, seed, offset):
        T = q_BHTD.shape[2]
        return aten._scaled_dot_product_cudnn_attention_backward(
            grad_BHTD, q_BHTD, k_BGTD, v_BGTD, out_BHTD, lse_BHT.contiguous()[..., None], seed, offset,
            None, None, None, T, T, 0.0, True, scale=self.scale,
        )  # fmt: skip
