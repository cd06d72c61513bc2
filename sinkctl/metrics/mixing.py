"""Over-mixing: how far a change of one token spreads (Barbero et al. 2025, arXiv 2504.02732).

N samples of one length, T tokens, L blocks, C channels.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sinkctl.errors import TextError
from sinkctl.metrics.massive_cost import after_blocks
from sinkctl.metrics.means import precise


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


@contextmanager
def residuals(model: PreTrainedModel, rows: int) -> Iterator[list[Tensor]]:
    """Inside, the residual stream after every block is kept, of the first `rows` samples; yields [N, T, C] a block."""
    kept_NTC: list[Tensor] = []
    with after_blocks(model, lambda _, h_NTC, __: kept_NTC.append(precise(h_NTC[:rows]))):
        yield kept_NTC


def spread(model: PreTrainedModel, before: Sequence[Tensor], run: Callable[[], Any]) -> Tensor:
    """‖h'_t − h_t‖ / ‖h_t‖ after every block, h as `residuals` kept it, h' what `run` makes of the other samples.

    Where it runs their last tokens alone, of those alone: [L, N, T].
    """
    found: list[Tensor] = []

    def compare(_: int, h_NTC: Tensor, __: Tensor | tuple) -> None:
        before_NTC = before[len(found)][:, -h_NTC.shape[1] :]
        found.append(((precise(h_NTC) - before_NTC).norm(dim=-1) / before_NTC.norm(dim=-1)).cpu())

    with after_blocks(model, compare):
        run()
    return torch.stack(found)


def mixing(change_LNT: Tensor) -> list[float]:
    """Mean over samples and tokens, a number a block."""
    return change_LNT.double().mean((1, 2)).tolist()
