"""What a head writes to the residual stream.

N samples, H query heads, T tokens, E value width, F the same, C channels.
"""

import torch
from torch import Tensor

from sinkctl.metrics.means import mean_over, precise
from sinkctl.metrics.views import AttentionView, Scope

DORMANT = 0.1  # a head whose relative output is below this writes next to nothing


def written_norm(x_NHTE: Tensor, projection_CHE: Tensor) -> Tensor:
    """‖W_O^h x‖ by head, without the C channels: sqrt(xᵀ(WᵀW)x): [N, H, T]."""
    projection_HCE = precise(projection_CHE).transpose(0, 1)
    gram_HEF, x_NHTE = projection_HCE.mT @ projection_HCE, precise(x_NHTE)
    wide = torch.promote_types(gram_HEF.dtype, x_NHTE.dtype)
    return ((x_NHTE.to(wide) @ gram_HEF.to(wide)) * x_NHTE).sum(-1).clamp(min=0).sqrt()


def head_output(view: AttentionView, scope: Scope) -> Tensor | None:
    """Mean over tokens of ‖W_O^h x_t‖, x what entered the projection, after any gate: [N, H] (arXiv 2504.03889)."""
    if view.projection_CHE is None:
        return None
    x_NHTE = view.sums.out_BHTE if view.kept_NHTE is None else view.kept_NHTE
    return mean_over(written_norm(x_NHTE, view.projection_CHE), view.real_NT[:, None])


def relative_output(output_H: Tensor) -> Tensor:
    """`head_output` over its mean over the layer's heads, [..., H]; below DORMANT the head is dormant."""
    return output_H / output_H.mean(-1, keepdim=True)
