"""Whether the first token's value is small, so that attending to it does nothing.

N samples, G key/value heads, H query heads, T tokens.
"""

from torch import Tensor

from sinkctl.kernels.query_sums import norm
from sinkctl.metrics.means import first_and_rest
from sinkctl.metrics.output import written
from sinkctl.metrics.views import AttentionView, Scope


def value_norms(view: AttentionView, scope: Scope) -> Tensor:
    """‖v_1‖, and the mean of ‖v_t‖ over t > 1: [N, G, 2] (Gu et al. 2024, arXiv 2410.10781)."""
    return view.own.once("values", lambda: first_and_rest(norm(view.v_NGTE), view.rest_NT[:, None]))


def value_drain(view: AttentionView, scope: Scope) -> Tensor:
    """‖v_1‖ / mean of ‖v_t‖ over t > 1: [N, G]."""
    first_NG, rest_NG = value_norms(view, scope).unbind(-1)
    return first_NG / rest_NG


def written_norms(view: AttentionView, scope: Scope) -> Tensor | None:
    """The same of v W_O^h, comparable across heads: [N, H, 2] (Guo et al. 2024, arXiv 2410.13835)."""
    if view.projection_CHE is None:
        return None
    return first_and_rest(written(view, view.v_NGTE), view.rest_NT[:, None])
