"""Which experts the first token goes to, and whether the others go there too.

N samples, T tokens, k experts chosen a token, X experts.
"""

import torch
from torch import Tensor

from sinkctl.metrics.means import after_first, mean_over


def first_token_experts(indices_NTk: Tensor, real_NT: Tensor, experts: int) -> Tensor:
    """1 for the experts chosen for the first token, 0 for the others: [N, X]."""
    chosen_NX = torch.zeros(len(indices_NTk), experts, device=indices_NTk.device).scatter(1, indices_NTk[:, 0], 1.0)
    return chosen_NX.masked_fill(~real_NT[:, :1], torch.nan)


def expert_load(indices_NTk: Tensor, real_NT: Tensor, experts: int) -> Tensor:
    """Share of the tokens but the first that go to each expert: [N, X]."""
    chosen_NTX = torch.zeros(*indices_NTk.shape[:2], experts, device=indices_NTk.device).scatter(2, indices_NTk, 1.0)
    return mean_over(chosen_NTX.mT, after_first(real_NT)[:, None])
