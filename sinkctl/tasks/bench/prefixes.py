"""Tokens that in front of every text take the massive activations on themselves: found, and what they save.

N samples, T tokens, C channels.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from statistics import NormalDist

import numpy as np
import torch

from sinkctl.cache.precision.predicted import told_by
from sinkctl.errors import ModelError, TextError
from sinkctl.metrics.predicted import predicted
from sinkctl.model.load import LoadedModel
from sinkctl.model.memory import auto_chunk
from sinkctl.recipe.bench import PrefixCase
from sinkctl.recipe.sizes import behind
from sinkctl.tasks.bench.beside_full import opening
from sinkctl.tasks.stream.scorers import scorer_for

WHOLE_FIRST = 4  # of the text's own tokens, kept in full where nothing is in front
LONGEST = 8  # tokens in front
CANDIDATES = 6  # tokens told by massive activations that a search tries, and as many frequent ones
RARE = 10  # what fewer than one in so many samples tells is no token to put in front, as in PrefixQuant's code


class Prefixes:
    """A model, a text, and what may be put in front of it: lists of ids."""

    def __init__(self, case: PrefixCase, loaded: LoadedModel, told: Callable[[str, float], None]):
        """ModelError without a tokenizer, TextError where the text is too short."""
        if loaded.tokenizer is None:
            raise ModelError(
                f"{loaded.name} has no tokenizer, so no text to put tokens before; give a checkpoint instead"
            )
        self._case, self._loaded, self._told = case, loaded, told
        ids_T, _ = opening(loaded, case.files, None)
        self._ids = ids_T.tolist()
        scored = case.limit + (case.search if case.greedy else 0)
        if len(self._ids) < max(case.length, scored):
            raise TextError(
                f"{case.label}: the text has {len(self._ids):,} tokens; give a longer one, or a smaller limit or length"
            )
        length = min(case.length, (loaded.context or math.inf) - LONGEST)
        starts = np.linspace(0, len(self._ids) - length, case.samples).astype(int)
        self._samples = [self._ids[start : start + length] for start in starts]

    @property
    def bos(self) -> list[int]:
        """BOS, where the model has one."""
        return [] if self._loaded.bos_id is None else [self._loaded.bos_id]

    @cached_property
    def _places(self) -> list[tuple[int, int]]:
        """(sample, token, counted from BOS) that massive activations tell behind BOS; none where nothing is massive."""
        rule, seen = self._looked(self.bos)
        return [] if rule is None else sorted(predicted(seen[rule.layer].places_E3, rule.channels))

    @cached_property
    def _told_often(self) -> list[tuple[int, int]]:
        """Tokens past the first that massive activations tell, with how often they do, the most frequent first."""
        return Counter((self.bos + self._samples[n])[t] for n, t in self._places if t).most_common()

    @cached_property
    def measured(self) -> list[int]:
        """As many as a sample has massive places, rounded up, those told most often before BOS (PrefixQuant)."""
        if not self._places:
            return []
        number = min(LONGEST, math.ceil(len(self._places) / len(self._samples)))
        often = [token for token, times in self._told_often if RARE * times >= len(self._samples)]
        return often[: number - len(self.bos)] + self.bos

    @cached_property
    def frequent(self) -> list[int]:
        """As many of the text's most frequent tokens instead: the control."""
        return self._often[: len(self.measured) - len(self.bos)] + self.bos if self.measured else []

    @cached_property
    def greedy(self) -> list[int]:
        """One token after the other, in front of all: the one that lowers the loss at the fewest bits most, surely.

        So CushionCache begins; its prefix tuning is not done. The text it reads is behind that which is scored, and the
        best of so many candidates has to be as sure as one alone would be at two standard errors.
        """
        case, front = self._case, []
        candidates = [*self.bos, *(token for token, _ in self._told_often[:CANDIDATES]), *self._often[:CANDIDATES]]
        sure = NormalDist().inv_cdf(1 - NormalDist().cdf(-2) / len(candidates))
        best = self.losses(front, case.kv[-1], case.search, case.limit)
        while len(front) < case.greedy:
            found = {}
            for token in candidates:
                done = (len(front) + len(found) / len(candidates)) / case.greedy
                self._told(f"{case.label}: searching token {len(front) + 1} of at most {case.greedy}", done)
                found[token] = self.losses([token, *front], case.kv[-1], case.search, case.limit)
            token = min(found, key=lambda token: found[token].mean())
            gain = best - found[token]
            if gain.mean() < sure * gain.std(ddof=1) / len(gain) ** 0.5:
                break
            front, best = [token, *front], found[token]
        return front

    @cached_property
    def _often(self) -> list[int]:
        told = {token for token, _ in self._told_often}
        return [token for token, _ in Counter(self._ids).most_common() if token not in told]

    def losses(self, front: Sequence[int], kv: str | None, tokens: int, first: int = 0) -> np.ndarray:
        """In nats, of all but the first of so many tokens of the text, the front kept in full and the rest as `kv`."""
        policy = behind(len(front) or WHOLE_FIRST, self._case, kv)
        ids_T = torch.tensor([*front, *self._ids[first : first + tokens]])
        scorer, (chunk, _) = scorer_for(self._loaded, policy, bos=False), auto_chunk(self._loaded)
        parts = zip(ids_T[:-1].split(chunk), ids_T[1:].split(chunk), strict=True)
        return np.concatenate([scorer.step(*part) for part in parts])[len(front) :].astype(np.float64)

    def massive(self, front: Sequence[int]) -> tuple[float, float]:
        """(places a sample past the front that are massive in some layer, largest activation past it)."""
        _, seen = self._looked(front)
        past = max(1, len(front))
        places = {(n, t) for each in seen.values() for n, t, _ in each.places_E3.tolist() if t >= past}
        largest = max(float(each.largest_NT[:, past:].max()) for each in seen.values())
        return len(places) / len(self._samples), largest

    def _looked(self, front: Sequence[int]):
        ids_NT = torch.tensor([[*front, *sample] for sample in self._samples], device=self._loaded.device)
        return told_by(self._loaded, ids_NT)
