"""Which heads of a model give part of the first token's attention away, and how they do."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from sinkctl.cache.policies import Policy
from sinkctl.errors import ModelError, UsageError
from sinkctl.kernels.implementation import Implementation
from sinkctl.kernels.stream_attention.redistributed import redistributed
from sinkctl.model.probe import LayerFacts


class Moved(NamedTuple):
    """What one layer gives away."""

    heads: list[int]
    share: float

    def words(self, heads: int) -> str:
        """Which of so many heads."""
        return "all heads" if len(self.heads) == heads else f"heads {', '.join(map(str, self.heads))}"

    def around(self, plain: Implementation, reason: str, facts: LayerFacts) -> tuple[Implementation, str]:
        """An implementation of `stream_attention` that does so, and the reason."""
        run = partial(redistributed, plain.run, self.heads, self.share, int(facts.sink_key))
        others = "" if len(self.heads) == facts.heads else f", the other heads by {plain.name}: {reason}"
        return Implementation("redistributed", run), f"plain torch: weights are changed before they are used{others}"


def holding(layers: Sequence[LayerFacts], policy: Policy) -> list[LayerFacts]:
    """The layers that hold the first token for every query."""
    keeps = [(facts, policy.keep(facts.window, facts.number)) for facts in layers]
    return [facts for facts, keep in keeps if keep.sinks or keep.window is None]


def moved_heads(layers: Sequence[LayerFacts], policy: Policy) -> list[Moved | None]:
    """What each layer gives away; empty where the policy redistributes nothing.

    Raises ModelError or UsageError for layers and heads that cannot or are not there.
    """
    asked = policy.redistribute
    if asked is None:
        return []
    held = holding(layers, policy)
    weighed = next((facts for facts in held if facts.weighed), None)
    if weighed is not None:
        raise ModelError(
            f"--redistribute: weights of {weighed.sink} ({weighed.name}) are no softmax that a first token has a share "
            "of; leave it out"
        )
    if not held:
        raise ModelError(f"--redistribute: no layer of the model holds the first token under {policy.size}")
    numbers = {facts.number: facts for facts in held}
    for layer, head in asked.chosen or ():
        if layer not in numbers or head >= numbers[layer].heads:
            raise UsageError(
                f"--redistribute-heads {layer}.{head}: no such head that holds the first token; those are "
                f"heads 0 to {held[0].heads - 1} of {_listed(list(numbers))}"
            )
    found = []
    for facts in layers:
        own = range(facts.heads) if asked.chosen is None else sorted({h for n, h in asked.chosen if n == facts.number})
        gives = facts.number in numbers and len(own) > 0
        found.append(Moved(list(own), asked.share) if gives else None)
    return found


def _listed(layers: list[int]) -> str:
    if len(layers) == 1:
        return f"layer {layers[0]}"
    in_a_row = layers == list(range(layers[0], layers[-1] + 1))
    return f"layers {f'{layers[0]} to {layers[-1]}' if in_a_row else ', '.join(map(str, layers))}"
