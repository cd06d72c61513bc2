"""What the last queries still give the first keys.

N samples, H query heads, T tokens, K leading keys, L last queries.
"""

import torch
from torch import Tensor

from sinkctl.metrics.means import mean_over
from sinkctl.metrics.seen import keys_seen
from sinkctl.metrics.views import AttentionView, Scope


def last_query(view: AttentionView, scope: Scope) -> Tensor:
    """A_{T,k} of the last query on the first `sinks` keys: [N, H, K] (Xiao et al. 2023, arXiv 2309.17453, figure 12).

    NaN for keys that the sample does not have.
    """
    a_NHK = _tail(view, 1, scope.sinks)[:, :, 0]
    missing_NK = torch.arange(scope.sinks, device=a_NHK.device) >= view.length_N[:, None]
    return a_NHK.masked_fill(missing_NK[:, None], torch.nan)


def tail_mass(view: AttentionView, scope: Scope) -> Tensor:
    """Mean over the last `tail` queries (all of them, if fewer) of the mass on the first `sinks` keys: [N, H]."""
    queries_N1 = view.length_N.clamp(max=scope.tail)[:, None]
    return _tail(view, scope.tail, scope.sinks).sum((-2, -1)) / queries_N1


def boost(view: AttentionView, scope: Scope) -> Tensor:
    """`tail_mass` over what uniform attention would give: first `sinks` keys seen / keys seen, mean over the queries.

    [N, H]; NaN where none of these queries sees a leading key, as far behind a window.
    """
    place_T = torch.arange(view.real_NT.shape[1], device=view.real_NT.device)
    last_NT = view.real_NT & (place_T >= view.length_N[:, None] - scope.tail)
    seen_NT = keys_seen(view).clamp(min=1)
    uniform_N1 = mean_over(keys_seen(view, scope.sinks) / seen_NT, last_NT)[:, None]
    return (tail_mass(view, scope) / uniform_N1).masked_fill(uniform_N1 == 0, torch.nan)


def _tail(view: AttentionView, last: int, leading: int) -> Tensor:
    """The last rows of each sample's attention map at the leading keys: [N, H, L, K], 0 where there is no such key."""
    a_NHLK = view.sums.lse_BHT.new_zeros(*view.sums.lse_BHT.shape[:2], last, leading)
    for length in view.length_N.unique().tolist():
        chosen_N = view.length_N == length
        rows_NHLK = view.attention(slice(max(length - last, 0), length), slice(0, leading))[chosen_N]
        a_NHLK[chosen_N, :, last - rows_NHLK.shape[2] :, : rows_NHLK.shape[3]] = rows_NHLK
    return a_NHLK
