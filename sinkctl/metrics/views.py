"""What metrics look at: one attention layer, or the output of one block, over a few samples.

Shapes: N samples, H query heads, G key/value heads, T tokens, S keys, D query/key width, E value width, C channels.
However samples were laid out for the model (padded, packed), here each begins at index 0; past its end `real_NT` is
False and every number is 0.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sinkctl.kernels.column_sums import AttentionSums, Visible
from sinkctl.kernels.query_sums import attention_part, scores
from sinkctl.metrics.samples import Groups

TILE = 128  # queries at a time, where rows are made whole


@dataclass(frozen=True)
class Scope:
    """Which tokens and thresholds the metrics speak of."""

    sinks: int = 4  # leading tokens counted as sinks
    local: int = 64  # past tokens that count as near
    tail: int = 64  # last queries of the tail mass
    massive_size: float = 100.0  # Sun et al. 2024: |h| above this …
    massive_ratio: float = 1000.0  # … and at least this many times the median |h|


class Known:
    """What is found out once, however many metrics ask for it."""

    def __init__(self) -> None:
        self._found: dict[Hashable, Any] = {}

    def once(self, what: Hashable, find: Callable[[], Any]) -> Any:
        if what not in self._found:
            self._found[what] = find()
        return self._found[what]


class Tokens:
    """What follows from which tokens there are, and is `shared` by the layers of a pass."""

    real_NT: Tensor  # bool
    shared: Known

    @property
    def place_T(self) -> Tensor:
        return self.shared.once("place", lambda: torch.arange(self.real_NT.shape[1], device=self.real_NT.device))

    @property
    def length_N(self) -> Tensor:
        return self.shared.once("length", lambda: self.real_NT.sum(-1))

    @property
    def rest_NT(self) -> Tensor:
        """The real tokens but the first."""
        return self.shared.once("rest", lambda: self.real_NT & (self.place_T > 0))


@dataclass(frozen=True)
class AttentionView(Tokens):
    """One attention layer over N samples; queries and keys are rotated already."""

    q_NHTD: Tensor
    k_NGTD: Tensor
    v_NGTE: Tensor
    sums: AttentionSums  # out, lse, entropy and distance per query, received per key
    real_NT: Tensor  # bool
    visible: Visible  # its `segment_BT` is of no use here: samples are apart
    scale: float
    softcap: float | None = None
    sink_logit_H: Tensor | None = None  # [N, H, T]: the score of a key of the layer's own
    slope_H: Tensor | None = None
    projection_CHE: Tensor | None = None  # weight of the output projection, by head; None: not found, or quantized
    weigh: Callable[[Tensor, Tensor], Tensor] | None = None  # (scores, seen) → weights, in place of softmax
    weighed_by: str | None = None  # its name
    kept_NHTE: Tensor | None = None  # what entered the output projection: after a gate or norm, where there is one
    sharers: int = 1  # processes that have the layer's heads between them: H and G are this one's share
    constant_HE: Tensor | None = None  # of that, what a designed sink adds behind its gate
    groups: Groups | None = None  # kinds of keys
    shared: Known = field(default_factory=Known, repr=False)
    own: Known = field(default_factory=Known, init=False, repr=False)  # what several metrics need of this layer

    @property
    def pattern(self) -> Hashable:
        """What `shared` goes by where it depends on what queries see."""
        return self.visible.causal, self.visible.window, self.visible.also

    @property
    def apart(self) -> Visible:
        """What is seen among the real tokens of a sample."""
        return Visible(self.visible.causal, self.visible.window, self._segment_NT, self.visible.also)

    @property
    def _segment_NT(self) -> Tensor | None:
        return self.shared.once("segment", lambda: None if bool(self.real_NT.all()) else self.real_NT.long())

    def attention(self, queries: slice, keys: slice) -> Tensor:
        """A few rows or columns of the attention map, [N, H, queries, keys], in float32 or wider."""
        inputs, bent = (self.q_NHTD, self.k_NGTD), dict(softcap=self.softcap, slope_H=self.slope_H)
        if self.weigh is None:
            whole = self.sums.lse_BHT
            return attention_part(*inputs, whole, queries, keys, scale=self.scale, visible=self.apart, **bent)
        rows, (first, end, _) = [], queries.indices(self.real_NT.shape[1])
        for start in range(first, end, TILE):  # a weight may depend on every key, so whole rows
            some = slice(start, min(start + TILE, end))
            score_NHTS, seen = scores(*inputs, some, slice(None), scale=self.scale, visible=self.apart, **bent)
            rows.append(self.weigh(score_NHTS, seen).masked_fill(~seen, 0.0)[..., keys])
        return torch.cat(rows, dim=2)


@dataclass(frozen=True)
class BlockView(Tokens):
    """The residual stream after one block, over N samples."""

    h_NTC: Tensor
    real_NT: Tensor  # bool
    shared: Known = field(default_factory=Known, repr=False)
    own: Known = field(default_factory=Known, init=False, repr=False)
