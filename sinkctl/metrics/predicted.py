"""Which tokens a quantizer of keys and values must keep in full, told by the residual stream alone.

E massive elements, each with its sample, token and channel.
"""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor


class Rule(NamedTuple):
    """What tells the tokens: a massive element in one of these channels after this layer."""

    layer: int
    channels: list[int]


def rule(places: Mapping[int, Tensor], samples: int, last: int) -> Rule | None:
    """The first layer after which a channel is massive in half of the samples, and all such channels; None: no layer.

    `places`: of the massive elements after each layer, [E, 3]. After layer `last`, the model's last, nothing attends.
    """
    for layer in sorted(layer for layer in places if layer < last):
        times = Counter(channel for _, channel in places[layer][:, [0, 2]].unique(dim=0).tolist())
        often = sorted(channel for channel, n in times.items() if 2 * n >= samples)
        if often:
            return Rule(layer, often)
    return None


def predicted(places_E3: Tensor, channels: list[int]) -> set[tuple[int, int]]:
    """Sample and place of every token that `Rule` tells, from the massive elements after its layer.

    Token t is predicted to be a sink of later layers where max_{c ∈ channels} |h_tc| > `massive_size` and
    ≥ `massive_ratio` · median |h|, the definition of Sun et al. 2024 (arXiv 2402.17762). That sink tokens are told by
    the channels in which outliers appear, after the layer where they do, and that their keys and values are the ones to
    keep in full, is KVSink's idea (Su and Yuan 2025, arXiv 2508.04257).
    """
    return {(sample, token) for sample, token, channel in places_E3.tolist() if channel in channels}
