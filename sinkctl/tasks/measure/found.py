"""Sinks found anywhere in the samples: which keys heads sink on, besides counting them.

N samples, H heads, T tokens.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Place:
    """A key that heads of one sample sink on."""

    sample: int
    key: int
    heads: int
    strongest: tuple[int, int]  # layer, head
    alpha: float
    last: int  # layer with such a head


@dataclass
class Finder:
    """Adds up, over the layers of a batch, how many heads sink on each key; on their device until the batch ends."""

    epsilon: float
    places: list[Place] = field(default_factory=list)
    samples: int = 0
    eligible: list[Tensor] = field(default_factory=list)  # bool [T] a sample: keys that could be called sinks
    _counted: Tensor | None = None  # keys of this batch that could be
    _heads_NT: Tensor | None = None
    _best: tuple[Tensor, Tensor, Tensor] | None = None  # largest α of each key, its layer and its head
    _last_NT: Tensor | None = None  # last layer with a head that sinks on the key

    def add(self, layer: int, alpha_NHT: Tensor, sinking_NT: Tensor, counted_NT: Tensor) -> None:
        """One layer of the batch; `sinking_NT`: how many of its heads have α above ε; `counted_NT`: of which keys."""
        self._counted = counted_NT if self._counted is None else self._counted
        heads_NT = sinking_NT * counted_NT
        alpha_NT, head_NT = alpha_NHT.nan_to_num(0.0).max(1)
        found = torch.where(counted_NT, alpha_NT, 0.0), torch.full_like(head_NT, layer), head_NT
        if self._heads_NT is None:
            self._heads_NT, self._best, self._last_NT = heads_NT, found, found[1]
            return
        heads_NT, *found = (x.to(self._heads_NT.device) for x in (heads_NT, *found))
        self._heads_NT = self._heads_NT + heads_NT
        self._last_NT = torch.where(heads_NT > 0, layer, self._last_NT)
        better_NT = found[0] > self._best[0]
        self._best = tuple(torch.where(better_NT, new, old) for new, old in zip(found, self._best, strict=True))

    def end(self, samples: int) -> None:
        """After a batch of so many samples."""
        if self._heads_NT is not None:
            self.eligible += list(self._counted.cpu())
            heads_NT, last_NT, alpha_NT, layer_NT, head_NT = (
                x.cpu() for x in (self._heads_NT, self._last_NT, *self._best)
            )
            for n, key in heads_NT.nonzero().tolist():
                strongest = int(layer_NT[n, key]), int(head_NT[n, key])
                heads, alpha = int(heads_NT[n, key]), float(alpha_NT[n, key])
                self.places.append(Place(self.samples + n, key, heads, strongest, alpha, int(last_NT[n, key])))
        self.samples += samples
        self._heads_NT = self._best = self._last_NT = None
        self._counted = None
