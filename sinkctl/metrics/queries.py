"""What several metrics need of the queries, found once a layer: by the kernels of `query_sums` where they run.

N samples, H query heads, G key/value heads, T queries, K leading keys.
"""

from torch import Tensor

from sinkctl.kernels.query_sums import AgainstKeys, QuerySums, against_keys, fused, fused_sums, near_mass
from sinkctl.metrics.views import AttentionView, Scope


def against(view: AttentionView, scope: Scope) -> AgainstKeys:
    """Norms of queries and keys, [N, H, T] and [N, G, T], and q_t·k_j/‖k_j‖: of the first key, and Σ of the others."""
    found = _fused(view, scope)
    if found is not None:
        return found.against
    return view.own.once("against", lambda: against_keys(view.q_NHTD, view.k_NGTD, view.visible.causal))


def leading(view: AttentionView, scope: Scope) -> Tensor:
    """A_tk on the first `sinks` keys: [N, H, T, K]; of padding it may be anything."""
    found = _fused(view, scope)
    if found is not None:
        return found.leading_BHTK
    return view.own.once(("leading", scope), lambda: view.attention(slice(None), slice(0, scope.sinks)))


def near(view: AttentionView, scope: Scope) -> Tensor:
    """Σ A_tk over keys at most `local` away that are not among the first `sinks`: [N, H, T]; padding: as above."""
    found = _fused(view, scope)
    if found is not None:
        return found.near_BHT
    T, device = view.real_NT.shape[1], view.real_NT.device
    return near_mass(view.attention, T, view.visible, scope.sinks, scope.local, device)


def _fused(view: AttentionView, scope: Scope) -> QuerySums | None:
    if view.weigh is not None or not (fused(view.q_NHTD, view.visible) and fused(view.k_NGTD, view.visible)):
        return None
    return view.own.once(
        ("fused", scope),
        lambda: fused_sums(
            view.q_NHTD, view.k_NGTD, view.sums.lse_BHT, scale=view.scale, visible=view.visible,
            leading=scope.sinks, local=scope.local, softcap=view.softcap, slope_H=view.slope_H,
        ),
    )  # fmt: skip
