"""How much of attention's output a gate or norm lets through to the output projection.

N samples, H query heads, T tokens.
"""

import torch
from torch import Tensor

from sinkctl.metrics.means import precise
from sinkctl.metrics.views import AttentionView, Scope


def gate(view: AttentionView, scope: Scope) -> Tensor | None:
    """Σ⟨kept_t, out_t⟩ / Σ⟨out_t, out_t⟩ over tokens, the least-squares factor: [N, H]; None where all passes.

    A constant that is added behind the gate is none of it.
    """
    return _factor(view, view.real_NT)


def first_gate(view: AttentionView, scope: Scope) -> Tensor | None:
    """The same for the first token alone: [N, H]."""
    return _factor(view, view.real_NT & (torch.arange(view.real_NT.shape[1], device=view.real_NT.device) == 0))


def _factor(view: AttentionView, counted_NT: Tensor) -> Tensor | None:
    out_NHTE, kept_NHTE = view.sums.out_BHTE, view.kept_NHTE
    if kept_NHTE is None or torch.equal(kept_NHTE, out_NHTE.to(kept_NHTE.dtype)):
        return None
    if view.constant_HE is not None:
        kept_NHTE = kept_NHTE - view.constant_HE[:, None]
    counted_NHT, out_NHTE = counted_NT[:, None], precise(out_NHTE)
    kept_NH, all_NH = ((x * out_NHTE).sum(-1).where(counted_NHT, 0.0).sum(-1) for x in (kept_NHTE, out_NHTE))
    return kept_NH / all_NH
