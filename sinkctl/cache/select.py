"""Which cache holds a policy's keys and values: whole or evicted, at full precision or rounded."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from sinkctl.cache.blocks import BlockCache
from sinkctl.cache.evicting import EvictingCache
from sinkctl.cache.evicting_ring import EvictingRing
from sinkctl.cache.layers import kept_by
from sinkctl.cache.policies import Evicting, PerHead, Policy, Snap
from sinkctl.cache.precision.ring import RoundedRing
from sinkctl.cache.prompts import PrefillWindows
from sinkctl.cache.redistribution.heads import moved_heads
from sinkctl.cache.ring import RingCache
from sinkctl.cache.snap import SnapCache
from sinkctl.cache.split import SplitCache
from sinkctl.model.probe import LayerFacts

Ring = RingCache | EvictingCache | SplitCache
Blocks = "BlockCache | RoundedBlocks | EvictingCache | SplitCache"


def ring(layers: Sequence[LayerFacts], policy: Policy, rows: int, capacity: int | None = None) -> Ring:
    """For `rows` streams that go on a token at a time; one that keeps everything needs the `capacity` in tokens."""
    if policy.needs_prompts:
        return (SnapCache if isinstance(policy, Snap) else PrefillWindows)(layers, policy, rows)
    if isinstance(policy, Evicting):
        return EvictingRing(layers, policy, rows)
    if policy.precision is None:
        made = partial(RingCache, rows=rows, capacity=capacity, moved=moved_heads(layers, policy))
    else:
        made = partial(RoundedRing, precision=policy.precision, rows=rows, capacity=capacity)
    return SplitCache(layers, policy, made) if isinstance(policy, PerHead) else made(layers, kept_by(policy, layers))


def blocks(layers: Sequence[LayerFacts], policy: Policy, rows: int = 1) -> Blocks:
    """For one stream that comes in blocks, or `rows` of them that come in one block each, from their beginnings.

    UsageError for a policy that waits for the end of a prompt.
    """
    policy.check_scores()
    if isinstance(policy, Evicting):
        return EvictingCache(layers, policy, rows)
    if policy.precision is None:
        made = partial(BlockCache, moved=moved_heads(layers, policy))
    else:
        made = partial(RoundedBlocks, precision=policy.precision)
    return SplitCache(layers, policy, made) if isinstance(policy, PerHead) else made(layers, kept_by(policy, layers))


class RoundedBlocks(RoundedRing):
    """A rounded ring of one stream, as a `BlockCache` is used."""

    @property
    def implementations(self) -> dict[str, str]:
        """Names of the attention implementations in use, each with its reason."""
        return self.block_implementations

    def restore(self, state: dict[str, Tensor], seen: int) -> None:
        """Continue from `state`, `seen` tokens into a stream."""
        super().restore(state, [seen])
