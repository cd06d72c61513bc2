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
    return _factor(view, view.real_NT & (view.place_T == 0))


def _factor(view: AttentionView, counted_NT: Tensor) -> Tensor | None:
    products = view.own.once("gate", lambda: _products(view))
    if products is None:
        return None
    kept_NH, all_NH = (x_NHT.where(counted_NT[:, None], 0.0).sum(-1) for x_NHT in products)
    return kept_NH / all_NH


def _products(view: AttentionView) -> tuple[Tensor, Tensor] | None:
    """⟨kept_t, out_t⟩ and ⟨out_t, out_t⟩: [N, H, T]."""
    out_NHTE, kept_NHTE = view.sums.out_BHTE, view.kept_NHTE
    if kept_NHTE is None or _same(kept_NHTE, out_NHTE):
        return None
    if view.constant_HE is not None:
        kept_NHTE = kept_NHTE - view.constant_HE[:, None]
    out_NHTE = precise(out_NHTE)
    return (kept_NHTE * out_NHTE).sum(-1), (out_NHTE * out_NHTE).sum(-1)


def _same(kept_NHTE: Tensor, out_NHTE: Tensor) -> bool:
    """Mostly they are one memory, which a GPU need not be asked about."""
    kept, out = ((x.data_ptr(), x.dtype, x.shape, x.stride()) for x in (kept_NHTE, out_NHTE))
    return kept == out or torch.equal(kept_NHTE, out_NHTE.to(kept_NHTE.dtype))
