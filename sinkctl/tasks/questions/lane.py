"""One policy's stream: texts go in, questions are answered greedily, aside from the stream or in it."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch

from sinkctl.cache.layers import kept_by
from sinkctl.cache.policies import Evicting, Keep, PerHead, Policy, Recompute, Snap
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import GREEDY, GenerateRecipe
from sinkctl.tasks.generate.generation import decoder_for
from sinkctl.tasks.generate.settle import can_capture
from sinkctl.tasks.questions.settle import Settled

Inside = Literal["yes", "partly", "no", "unknown"]


class Lane:
    """A decoder, and where its stream stands."""

    def __init__(self, loaded: LoadedModel, settled: Settled, policy: Policy, capacity: int | None):
        """`capacity`: tokens of the whole stream, which `dense` has to know."""
        recipe = settled.recipe
        graph = recipe.graph and can_capture(loaded, policy)[0]  # settled for the first policy
        settings = GenerateRecipe(sampling=GREEDY, graph=graph, compile=False)
        bos = settled.bos_id is not None
        self.policy, self._chunk, self._keep = policy, recipe.chunk, recipe.keep
        self.decoder = decoder_for(loaded, policy, settings, 1, capacity, bos)
        self.kept = _most_kept(loaded, policy, bos)
        self.place = 0  # tokens of the stream so far
        self._pending: list[np.ndarray] = []  # tokens of the stream not fed yet
        self._held_back = policy.last if isinstance(policy, Snap) else 0  # of those: a question's end watches them

    def take(self, ids_T: np.ndarray) -> None:
        """Let a text join the stream; it is fed once a block has come together, or something is asked."""
        if len(ids_T):
            self._pending.append(ids_T)
            self.place += len(ids_T)
        if sum(map(len, self._pending)) >= self._chunk:
            self._flush()

    def ask(self, ids_T: np.ndarray, limit: int, is_complete: Callable[[list[int]], bool]) -> list[int]:
        """The ids that follow the question: up to `limit`, fewer once they are complete.

        With `keep` the question and its answer stay in the stream; otherwise the stream is as if nothing was asked.
        """
        if not self._keep:
            self._flush()
            saved = self.decoder.state()
        place, ids_T = self.place + len(ids_T), np.concatenate([*self._pending, ids_T])
        answer = [int(self.decoder.feed([torch.from_numpy(ids_T)], self._chunk)[0])]
        while len(answer) < limit and not is_complete(answer):
            answer.append(int(self.decoder.step()[0]))
        if self._keep:  # the last id was chosen, and has not been fed
            self._pending = [np.array(answer[-1:], np.int64)]
            self.place = place + len(answer)
        else:
            self.decoder.restore(*saved)
        return answer

    def _flush(self) -> None:
        pending = np.concatenate([*self._pending, np.empty(0, np.int64)])
        fed, left = np.split(pending, [max(0, len(pending) - self._held_back)])
        if len(fed):
            self.decoder.feed([torch.from_numpy(fed)], self._chunk, prompt=False)
        self._pending = [left] if len(left) else []


def inside(keep: Keep | None, first: int, end: int, asked: int) -> Inside:
    """Whether tokens `first … end−1` are among those that the query at `asked` sees; None: nobody knows."""
    if keep is None:
        return "unknown"
    if keep.window is None:
        return "yes"
    seen = max(0, min(end, keep.sinks) - first) + max(0, end - max(first, keep.sinks, asked - keep.window))
    return "yes" if seen == end - first else "partly" if seen else "no"


def _most_kept(loaded: LoadedModel, policy: Policy, bos: bool) -> Keep | None:
    """The most that any layer keeps; None where heads choose."""
    if isinstance(policy, Evicting | Snap | PerHead):
        return None
    if isinstance(policy, Recompute):
        return Keep(0, policy.reach - bos)
    facts = loaded.layers(getattr(policy, "reach", None) or (loaded.context or 4096) - 1)
    keeps = kept_by(policy, facts)
    windows = [keep.window for keep in keeps]
    return Keep(max(keep.sinks for keep in keeps), None if None in windows else max(windows))
