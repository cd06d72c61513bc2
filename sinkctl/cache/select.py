"""Which cache holds a policy's keys and values: at full precision, or rounded."""

from collections.abc import Sequence

from torch import Tensor

from sinkctl.cache.blocks import BlockCache
from sinkctl.cache.policies import Policy
from sinkctl.cache.precision.ring import RoundedRing
from sinkctl.cache.ring import RingCache
from sinkctl.model.probe import LayerFacts


def ring(layers: Sequence[LayerFacts], policy: Policy, rows: int, capacity: int | None = None) -> RingCache:
    """For `rows` streams that go on a token at a time; one that keeps everything needs the `capacity` in tokens."""
    keeps = [policy.keep(facts.window) for facts in layers]
    if policy.precision is None:
        return RingCache(layers, keeps, rows, capacity)
    return RoundedRing(layers, keeps, policy.precision, rows, capacity)


def blocks(layers: Sequence[LayerFacts], policy: Policy) -> "BlockCache | RoundedBlocks":
    """For one stream that comes in blocks."""
    keeps = [policy.keep(facts.window) for facts in layers]
    return BlockCache(layers, keeps) if policy.precision is None else RoundedBlocks(layers, keeps, policy.precision)


class RoundedBlocks(RoundedRing):
    """A rounded ring of one stream, as a `BlockCache` is used."""

    @property
    def implementations(self) -> dict[str, str]:
        """Names of the attention implementations in use, each with its reason."""
        return self.block_implementations

    def restore(self, state: dict[str, Tensor], seen: int) -> None:
        """Continue from `state`, `seen` tokens into a stream."""
        super().restore(state, [seen])
