"""What metrics look at: one attention layer, or the output of one block, over a few samples.

Shapes: N samples, H query heads, G key/value heads, T tokens, S keys, D query/key width, E value width, C channels.
However samples were laid out for the model (padded, packed), here each begins at index 0; past its end `real_NT` is
False and every number is 0.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sinkctl.kernels.column_sums import AttentionSums, Visible

TILE = 128  # queries at a time, where rows are made whole


@dataclass(frozen=True)
class Scope:
    """Which tokens and thresholds the metrics speak of."""

    sinks: int = 4  # leading tokens counted as sinks
    local: int = 64  # past tokens that count as near
    tail: int = 64  # last queries of the tail mass
    massive_size: float = 100.0  # Sun et al. 2024: |h| above this …
    massive_ratio: float = 1000.0  # … and at least this many times the median |h|


@dataclass(frozen=True)
class AttentionView:
    """One attention layer over N samples; queries and keys are rotated already."""

    q_NHTD: Tensor
    k_NGTD: Tensor
    v_NGTE: Tensor
    sums: AttentionSums  # out, lse, entropy and distance per query, received per key
    real_NT: Tensor  # bool
    visible: Visible  # its `segment_BT` is of no use here: samples are apart
    scale: float
    softcap: float | None = None
    sink_logit_H: Tensor | None = None  # [N, H, T]: the score of a key of the layer's own
    slope_H: Tensor | None = None
    projection_CHE: Tensor | None = None  # weight of the output projection, by head; None: not found, or quantized
    weigh: Callable[[Tensor, Tensor], Tensor] | None = None  # (scores, seen) → weights, in place of softmax
    weighed_by: str | None = None  # its name
    kept_NHTE: Tensor | None = None  # what entered the output projection: after a gate or norm, where there is one
    constant_HE: Tensor | None = None  # of that, what a designed sink adds behind its gate

    @property
    def length_N(self) -> Tensor:
        return self.real_NT.sum(-1)

    def attention(self, queries: slice, keys: slice) -> Tensor:
        """A few rows or columns of the attention map, [N, H, queries, keys], in float32 or wider."""
        if self.weigh is None:
            score_NHTS, seen = self._scores(queries, keys)
            lse_NHT1 = self.sums.lse_BHT[:, :, queries, None].to(score_NHTS.dtype)
            return (score_NHTS - lse_NHT1).exp().masked_fill(~seen, 0.0)
        rows, (first, end, _) = [], queries.indices(self.real_NT.shape[1])
        for start in range(first, end, TILE):  # a weight may depend on every key, so whole rows
            score_NHTS, seen = self._scores(slice(start, min(start + TILE, end)), slice(None))
            rows.append(self.weigh(score_NHTS, seen).masked_fill(~seen, 0.0)[..., keys])
        return torch.cat(rows, dim=2)

    def _scores(self, queries: slice, keys: slice) -> tuple[Tensor, Tensor]:
        """(scores, which of them are seen)"""
        precise = torch.promote_types(self.q_NHTD.dtype, torch.float32)
        place_T = torch.arange(self.real_NT.shape[1], device=self.real_NT.device)
        query_T1, key_S = place_T[queries, None], place_T[keys]
        q_NHTD, k_NGSD = self.q_NHTD[:, :, queries].to(precise), self.k_NGTD[:, :, keys].to(precise)
        k_NHSD = k_NGSD.repeat_interleave(q_NHTD.shape[1] // k_NGSD.shape[1], dim=1)
        score_NHTS = (q_NHTD @ k_NHSD.mT) * self.scale
        if self.softcap is not None:
            score_NHTS = self.softcap * torch.tanh(score_NHTS / self.softcap)
        if self.slope_H is not None:
            score_NHTS = score_NHTS - self.slope_H.to(precise)[:, None, None] * (query_T1 - key_S).abs()
        plain = Visible(self.visible.causal, self.visible.window, None, self.visible.also)
        seen = plain.mask(query_T1, key_S) & self.real_NT[:, None, queries, None] & self.real_NT[:, None, None, keys]
        return score_NHTS, seen


@dataclass(frozen=True)
class BlockView:
    """The residual stream after one block, over N samples."""

    h_NTC: Tensor
    real_NT: Tensor  # bool

    @property
    def length_N(self) -> Tensor:
        return self.real_NT.sum(-1)
