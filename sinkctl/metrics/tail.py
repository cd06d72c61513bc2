"""What the last queries still give the first keys.

N samples, H query heads, T tokens, K leading keys.
"""

import torch
from torch import Tensor

from sinkctl.metrics.means import mean_over
from sinkctl.metrics.queries import leading
from sinkctl.metrics.seen import keys_seen
from sinkctl.metrics.views import AttentionView, Scope


def last_query(view: AttentionView, scope: Scope) -> Tensor:
    """A_{T,k} of the last query on the first `sinks` keys: [N, H, K] (Xiao et al. 2023, arXiv 2309.17453, figure 12).

    NaN for keys that the sample does not have.
    """
    a_NHTK, sample_N = leading(view, scope), torch.arange(len(view.real_NT), device=view.real_NT.device)
    a_NHK = a_NHTK[sample_N, :, view.length_N - 1]
    a_NHK = torch.nn.functional.pad(a_NHK, (0, scope.sinks - a_NHK.shape[2]))
    missing_NK = torch.arange(scope.sinks, device=a_NHK.device) >= view.length_N[:, None]
    return a_NHK.masked_fill(missing_NK[:, None], torch.nan)


def tail_mass(view: AttentionView, scope: Scope) -> Tensor:
    """Mean over the last `tail` queries (all of them, if fewer) of the mass on the first `sinks` keys: [N, H]."""
    return view.own.once(
        ("tail", scope), lambda: mean_over(leading(view, scope).sum(-1), _last_NT(view, scope)[:, None])
    )


def boost(view: AttentionView, scope: Scope) -> Tensor:
    """`tail_mass` over what uniform attention would give: first `sinks` keys seen / keys seen, mean over the queries.

    [N, H]; NaN where none of these queries sees a leading key, as far behind a window.
    """
    uniform_N1 = view.shared.once(("uniform", view.pattern, scope), lambda: _uniform(view, scope))
    return tail_mass(view, scope) / uniform_N1


def _uniform(view: AttentionView, scope: Scope) -> Tensor:
    seen_NT = keys_seen(view).clamp(min=1)
    uniform_N1 = mean_over(keys_seen(view, scope.sinks) / seen_NT, _last_NT(view, scope))[:, None]
    return uniform_N1.masked_fill(uniform_N1 == 0, torch.nan)


def _last_NT(view: AttentionView, scope: Scope) -> Tensor:
    """The last `tail` tokens of each sample."""
    return view.shared.once(
        ("last", scope.tail), lambda: view.real_NT & (view.place_T >= view.length_N[:, None] - scope.tail)
    )
