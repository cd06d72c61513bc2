"""What a head writes to the residual stream.

N samples, H query heads, T tokens, E value width, F the same, C channels.
"""

from torch import Tensor

from sinkctl.kernels.query_sums import written_norm
from sinkctl.metrics.means import mean_over, precise_product
from sinkctl.metrics.views import AttentionView, Scope

DORMANT = 0.1  # a head whose relative output is below this writes next to nothing


def written(view: AttentionView, x_NGTE: Tensor) -> Tensor:
    """‖W_O^h x‖ by query head, for x by head or by key/value head: [N, H, T]."""
    return written_norm(x_NGTE, view.own.once("gram", lambda: gram(view.projection_CHE)))


def gram(projection_CHE: Tensor) -> Tensor:
    """WᵀW of each head's part of the projection, [H, E, F], in float32 or wider."""
    projection_HCE = projection_CHE.transpose(0, 1)
    return precise_product(projection_HCE.mT, projection_HCE)


def head_output(view: AttentionView, scope: Scope) -> Tensor | None:
    """Mean over tokens of ‖W_O^h x_t‖, x what entered the projection, after any gate: [N, H] (arXiv 2504.03889)."""
    if view.projection_CHE is None:
        return None
    x_NHTE = view.sums.out_BHTE if view.kept_NHTE is None else view.kept_NHTE
    return mean_over(written(view, x_NHTE), view.real_NT[:, None])


def relative_output(output_H: Tensor) -> Tensor:
    """`head_output` over its mean over the layer's heads, [..., H]; below DORMANT the head is dormant."""
    return output_H / output_H.mean(-1, keepdim=True)
