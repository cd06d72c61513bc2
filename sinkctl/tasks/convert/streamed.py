"""A checkpoint as it is fed, streamed over the held-out text.

T tokens.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sinkctl.cache.policies import SinkWindow
from sinkctl.errors import ModelError
from sinkctl.model.load import LoadedModel
from sinkctl.model.memory import auto_chunk
from sinkctl.result.convert import TEXTS_OWN, StreamedLine
from sinkctl.tasks.stream.scorers import scorer_for


@dataclass(frozen=True)
class Fed:
    """A checkpoint, and what stands in front of its texts."""

    label: str
    loaded: LoadedModel
    front: tuple[int, ...]
    first: str

    @classmethod
    def of(cls, label: str, loaded: LoadedModel, named: str | None = None) -> "Fed":
        """As its tokenizer feeds it; `named`: what it puts in front, in words."""
        if not loaded.uses_bos:
            return cls(label, loaded, (), "nothing")
        return cls(label, loaded, (loaded.bos_id,), named or "BOS")

    @property
    def bare(self) -> "Fed":
        return Fed(self.label, self.loaded, (), "nothing")

    def ids(self, body_T: Tensor) -> Tensor:
        return torch.cat([torch.tensor(self.front, dtype=torch.long), body_T])


def streamed_line(fed: Fed, policy: SinkWindow, nll_T: np.ndarray | None) -> StreamedLine:
    """What stands in front, and the perplexity; None: it cannot be streamed."""
    first = fed.first
    if policy.sinks and not fed.front:
        first = TEXTS_OWN + ("s" if policy.sinks > 1 else "")
    found = None if nll_T is None else perplexity(nll_T)
    return StreamedLine(checkpoint=fed.label, policy=policy.label, first=first, perplexity=found)


def losses(
    fed: Fed, policy: SinkWindow, held_out_T: Tensor, window: int, notes: list[str], ran: Callable[[int], None]
) -> np.ndarray | None:
    """NLL of the held-out tokens from the third window on, whatever stands in front of them, nats.

    None, and a note, where it cannot be streamed so. `ran` gets the tokens of each block.
    """
    found = []
    try:
        scorer = scorer_for(fed.loaded, policy, bool(fed.front))
        for block_T in _blocks(fed.ids(held_out_T), auto_chunk(fed.loaded)[0]):
            found.append(scorer.step(block_T[:-1], block_T[1:]))
            ran(len(found[-1]))
    except ModelError as error:
        note = f"The {fed.label} was not streamed: {error}."
        notes += [] if note in notes else [note]
        return None
    return np.concatenate(found)[len(fed.front) + warm_up(window) - 1 :]


def warm_up(window: int) -> int:
    """Held-out tokens that are not scored: the cache fills, and what deeper layers hold of then leaves it."""
    return 2 * window


def perplexity(losses: np.ndarray) -> float | None:
    """None where there is no such number."""
    mean = float(losses.astype(np.float64).mean()) if len(losses) else math.inf
    return math.exp(mean) if math.isfinite(mean) and mean < 700 else None


def _blocks(ids_T: Tensor, size: int) -> Iterator[Tensor]:
    """Pieces that overlap by the token that is a target first."""
    return (ids_T[start : start + size + 1] for start in range(0, len(ids_T) - 1, size))
