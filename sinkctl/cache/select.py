"""Which cache holds a policy's keys and values."""

from collections.abc import Sequence

from sinkctl.cache.blocks import BlockCache
from sinkctl.cache.evicting import EvictingCache
from sinkctl.cache.layers import kept_by
from sinkctl.cache.policies import Evicting, PerHead, Policy
from sinkctl.cache.ring import RingCache
from sinkctl.cache.split import SplitCache
from sinkctl.model.probe import LayerFacts

Ring = RingCache | EvictingCache | SplitCache
Blocks = BlockCache | EvictingCache | SplitCache


def ring(layers: Sequence[LayerFacts], policy: Policy, rows: int, capacity: int | None = None) -> Ring:
    """For `rows` streams that go on a token at a time; one that keeps everything needs the `capacity` in tokens."""
    if isinstance(policy, Evicting):
        return EvictingCache(layers, policy, rows)
    if isinstance(policy, PerHead):
        return SplitCache(layers, policy, lambda part, keeps: RingCache(part, keeps, rows, capacity))
    return RingCache(layers, kept_by(policy, layers), rows, capacity)


def blocks(layers: Sequence[LayerFacts], policy: Policy) -> Blocks:
    """For one stream that comes in blocks."""
    if isinstance(policy, Evicting):
        return EvictingCache(layers, policy)
    if isinstance(policy, PerHead):
        return SplitCache(layers, policy, BlockCache)
    return BlockCache(layers, kept_by(policy, layers))
