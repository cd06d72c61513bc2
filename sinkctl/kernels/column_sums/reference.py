"""The specification of `column_sums`, in plain torch.

Shapes: B batch, H query heads, G key/value heads (H is a multiple of G), T tokens (queries and keys alike), S the same
as keys (as many as they are in cross-attention, where every query sees all of them), D query/key width, E value width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Visible:
    """Which keys a query sees; every condition must hold."""

    causal: bool = True
    window: int | None = None  # keys at most this far away, the query itself not counted; None: all
    segment_BT: Tensor | None = None  # queries see keys of their own segment; 0 is padding, which sees nothing
    # (query places [T, 1], key places [S]) → bool [T, S], or [B, 1, T, S] where rows differ
    also: Callable[[Tensor, Tensor], Tensor] | None = None

    def of(self, rows: slice) -> "Visible":
        """The same of some rows."""
        own, also = self.segment_BT, None
        if self.also is not None:

            def also(query_T1: Tensor, key_S: Tensor) -> Tensor:
                seen = self.also(query_T1, key_S)
                return seen[rows] if seen.dim() == 4 else seen

        return Visible(self.causal, self.window, None if own is None else own[rows], also)

    def mask(self, query_T1: Tensor, key_S: Tensor) -> Tensor:
        """Where query and key places see each other: [T, S], or [B, 1, T, S] with segments or rows that differ."""
        distance_TS = query_T1 - key_S
        seen = distance_TS >= 0 if self.causal else torch.ones_like(distance_TS, dtype=torch.bool)
        if self.window is not None:
            seen = seen & (distance_TS.abs() <= self.window)
        if self.also is not None:
            seen = seen & self.also(query_T1, key_S)
        if self.segment_BT is None:
            return seen
        query_BT, key_BS = self.segment_BT[:, query_T1[:, 0]], self.segment_BT[:, key_S]
        return (seen & (query_BT[:, :, None] == key_BS[:, None]) & (query_BT[:, :, None] != 0))[:, None]


class AttentionSums(NamedTuple):
    """What one attention layer did, in O(T); A is the softmax, with the learned sink logit as one more outcome."""

    out_BHTE: Tensor  # Σ_k A_tk v_k, in the dtype of the queries
    lse_BHT: Tensor  # log Σ exp of the scores a query sees, sink logit included; −inf where it sees nothing
    entropy_BHT: Tensor  # −Σ A ln A in nats, sink logit included
    distance_BHT: Tensor  # Σ_k A_tk |t − k|: keys only, not divided by their mass
    received_BHS: Tensor  # Σ_t A_tk


def column_sums(
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    v_BGSE: Tensor,
    *,
    scale: float,
    visible: Visible,
    sink_logit_H: Tensor | None = None,
    softcap: float | None = None,
    slope_H: Tensor | None = None,
) -> AttentionSums:
    """Attention, and the sums over its T×T map that metrics of sinks need.

        s_tk = softcap·tanh(scale·q_t·k_k / softcap) − slope·|t − k|,   A_tk = exp(s_tk − lse_t),
        lse_t = ln(Σ_k exp(s_tk) + exp(sink_logit)),   H_t = lse_t − Σ_k A_tk s_tk − A_t,sink · sink_logit

    The sink logit is one a head, [H], or one a head and query, [B, H, T] (a sink key's score).
    Scores, softmax and sums in float32, or float64 for float64 inputs. A query that sees no key (padding) gives
    zeros, and −inf for its log-sum-exp.
    """
    precise = torch.promote_types(q_BHTD.dtype, torch.float32)
    groups = q_BHTD.shape[1] // k_BGSD.shape[1]
    k_BHSD, v_BHSE = (x.repeat_interleave(groups, dim=1).to(precise) for x in (k_BGSD, v_BGSE))
    place_T = torch.arange(q_BHTD.shape[2], device=q_BHTD.device)
    place_S = torch.arange(k_BGSD.shape[2], device=q_BHTD.device)
    distance_TS = (place_T[:, None] - place_S).abs()
    score_BHTS = (q_BHTD.to(precise) @ k_BHSD.mT) * scale
    if softcap is not None:
        score_BHTS = softcap * torch.tanh(score_BHTS / softcap)
    if slope_H is not None:
        score_BHTS = score_BHTS - slope_H.to(precise)[:, None, None] * distance_TS
    seen = visible.mask(place_T[:, None], place_S).expand_as(score_BHTS)
    lse_BHT = score_BHTS.masked_fill(~seen, -torch.inf).logsumexp(-1)
    sinking_BHT = torch.zeros_like(lse_BHT)
    if sink_logit_H is not None:
        real_BHT = torch.isfinite(lse_BHT)
        logit_BHT = per_query(sink_logit_H.to(precise)).expand_as(lse_BHT)
        lse_BHT = torch.where(real_BHT, torch.logaddexp(lse_BHT, logit_BHT), lse_BHT)
        mass_BHT = (logit_BHT - lse_BHT).exp()
        sinking_BHT = torch.where(real_BHT & (mass_BHT > 0), mass_BHT * logit_BHT, 0.0)
    score_BHTS = score_BHTS.masked_fill(~seen, 0.0)
    a_BHTS = (score_BHTS - lse_BHT[..., None]).exp().masked_fill(~seen, 0.0)
    entropy_BHT = torch.where(torch.isfinite(lse_BHT), lse_BHT - (a_BHTS * score_BHTS).sum(-1) - sinking_BHT, 0.0)
    return AttentionSums(
        out_BHTE=(a_BHTS @ v_BHSE).to(q_BHTD.dtype),
        lse_BHT=lse_BHT,
        entropy_BHT=entropy_BHT,
        distance_BHT=(a_BHTS * distance_TS).sum(-1),
        received_BHS=a_BHTS.sum(-2),
    )


def per_query(sink_logit_H: Tensor) -> Tensor:
    """A sink logit, of whichever kind, as it broadcasts against [B, H, T]."""
    return sink_logit_H if sink_logit_H.dim() == 3 else sink_logit_H[:, None]
