"""How many keys a query sees.

N samples, T queries, S keys.
"""

import torch
from torch import Tensor

from sinkctl.kernels.column_sums import Visible
from sinkctl.metrics.views import AttentionView

TILE = 256  # queries at a time


def keys_seen(view: AttentionView, below: int | None = None) -> Tensor:
    """How many keys each query sees, of the first `below` where given: [N, T], 0 past the end."""
    below = view.real_NT.shape[1] if below is None else below
    return view.shared.once(("seen", view.pattern, below), lambda: _keys_seen(view, below))


def queries_seeing(view: AttentionView) -> Tensor:
    """How many queries see each key: [N, T], 0 past the end."""
    return view.shared.once(("seeing", view.pattern), lambda: _queries_seeing(view))


def _queries_seeing(view: AttentionView) -> Tensor:
    place_T, visible = view.place_T, view.visible
    plain = Visible(visible.causal, visible.window, None, visible.also)
    found_NT = torch.zeros_like(view.real_NT, dtype=torch.float32)
    for query_t in place_T.split(TILE):
        found_NT += view.real_NT[:, query_t].float() @ plain.mask(query_t[:, None], place_T).float()
    return found_NT.long() * view.real_NT


def _keys_seen(view: AttentionView, below: int) -> Tensor:
    T, visible, place_T = view.real_NT.shape[1], view.visible, view.place_T
    if visible.also is None:
        reach = T if visible.window is None else visible.window
        last_T = place_T if visible.causal else place_T + reach
        end_NT = torch.minimum(last_T + 1, view.length_N[:, None]).clamp(max=below)
        seen_NT = (end_NT - (place_T - reach).clamp(min=0)).clamp(min=0)
    else:
        plain, key_NS = Visible(visible.causal, visible.window, None, visible.also), view.real_NT[:, :below].float()
        tiles = [plain.mask(query_t[:, None], place_T[:below]).float() for query_t in place_T.split(TILE)]
        seen_NT = torch.cat([key_NS @ tile_tS.T for tile_tS in tiles], dim=1).long()
    return seen_NT * view.real_NT
