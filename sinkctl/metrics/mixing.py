"""Over-mixing: how far a change of one token spreads (Barbero et al. 2025, arXiv 2504.02732).

N samples of one length, T tokens, L blocks, C channels.
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sinkctl.errors import TextError
from sinkctl.metrics.massive_cost import after_blocks
from sinkctl.metrics.means import precise
from sinkctl.metrics.next_token import Seen, decoded
from sinkctl.metrics.samples import laid_out


def swapped(ids_NT: Tensor, place: int, seed: int) -> Tensor:
    """The samples with the token at `place` swapped for another, drawn evenly among those in the samples.

    The first token of each sample, often BOS, is not drawn. Raises TextError where there is only one token to draw.
    """
    known = ids_NT[:, 1:].unique()  # sorted
    if len(known) < 2:
        raise TextError("all tokens of the text are the same, so none can be swapped")
    step_N = torch.randint(1, len(known), (len(ids_NT),), generator=torch.Generator().manual_seed(seed))
    other_NT = ids_NT.clone()
    other_NT[:, place] = known[(torch.searchsorted(known, ids_NT[:, place].contiguous()) + step_N) % len(known)]
    return other_NT


def spread(model: PreTrainedModel, ids_NT: Tensor, other_NT: Tensor, also: Seen | None = None) -> Tensor:
    """‖h'_t − h_t‖ / ‖h_t‖ after every block, h' that of the other samples: [L, N, T]; `also` as in `decoded`."""
    found: list[Tensor] = []

    def compare(_: int, h_BTC: Tensor) -> None:
        h_NTC, other_NTC = precise(h_BTC).chunk(2)
        found.append(((other_NTC - h_NTC).norm(dim=-1) / h_NTC.norm(dim=-1)).cpu())

    with after_blocks(model, compare):
        decoded(model, laid_out([*ids_NT, *other_NT], model.device), also)
    return torch.stack(found)


def mixing(change_LNT: Tensor, place: int) -> list[float]:
    """Mean over samples and over the tokens after `place`, a number a block."""
    return change_LNT[:, :, place + 1 :].double().mean((1, 2)).tolist()
