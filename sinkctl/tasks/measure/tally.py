"""What the batches of one input add up to: means over samples of every metric, by layer, and the sinks found.

N samples, H heads, T tokens of the longest sample; a *row* is one softmax attention of the model, mostly one a layer.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from sinkctl.metrics import ATTENTION, BLOCK
from sinkctl.metrics.alpha import sinking
from sinkctl.metrics.experts import expert_load, first_token_experts
from sinkctl.metrics.massive import massive_places
from sinkctl.metrics.views import AttentionView, BlockView, Scope
from sinkctl.tasks.measure.found import Finder

SURFACE_TOKENS, SURFACE_CELLS = 48, 128


@dataclass
class Mean:
    """A mean over samples that leaves out what is not finite; summed in float64, on the device until it is asked."""

    total: Tensor | float = 0.0
    count: Tensor | float = 0.0

    def add(self, x_N: Tensor) -> None:
        vars(self).pop("value", None)  # of what was added before
        there = x_N.isfinite()
        self.total = self.total + x_N.masked_fill(~there, 0.0).sum(0, dtype=torch.float64)
        self.count = self.count + there.sum(0)

    @cached_property
    def value(self) -> Tensor:
        """float64 on the CPU, NaN where no sample had a number."""
        return (self.total / self.count).cpu()


@dataclass
class Row:
    """One softmax attention."""

    layer: int
    heads: int
    causal: bool
    kind: str
    means: dict[str, Mean] = field(default_factory=lambda: defaultdict(Mean))
    rates: dict[float, Mean] = field(default_factory=lambda: defaultdict(Mean))  # ε → share of heads, by key


@dataclass
class Tally:
    """A `metrics.observe.Measurer`; `end` closes each batch."""

    scope: Scope
    epsilons: tuple[float, ...]
    attention_metrics: dict[str, Callable] = field(default_factory=lambda: ATTENTION)
    block_metrics: dict[str, Callable] = field(default_factory=lambda: BLOCK)
    rows: list[Row] = field(default_factory=list)
    blocks: dict[int, dict[str, Mean]] = field(default_factory=dict)
    massive: dict[int, list[Tensor]] = field(default_factory=lambda: defaultdict(list))  # [N, 8] a batch
    places: dict[int, list[Tensor]] = field(default_factory=lambda: defaultdict(list))  # of massive elements, [E, 3]
    surfaces: dict[int, Tensor] = field(default_factory=dict)  # of the first sample
    experts: dict[int, tuple[Mean, Mean]] = field(default_factory=lambda: defaultdict(lambda: (Mean(), Mean())))
    shares: list[float] = field(default_factory=list)  # of heads that sink on the first key, a sample
    broken: int | Tensor = 0  # (sample, layer, head) whose attention is not finite, which no mean counts
    tokens: int = 0
    channels: int = 0
    norms: list[Tensor] = field(default_factory=list)  # of every token after the last block, [N, T] a batch
    found: Finder = field(init=False)
    _row: int = 0
    _sinking_N: Tensor | float = 0.0  # heads, so far in this batch
    _norms_NT: Tensor | None = None

    def __post_init__(self) -> None:
        self.found = Finder(self.epsilons[0])

    def attention(self, layer: int, view: AttentionView) -> None:
        if not self.attention_metrics:
            return
        if self._row == len(self.rows):
            self.rows.append(Row(layer, view.q_NHTD.shape[1], view.visible.causal, _kind(view)))
        row, self._row = self.rows[self._row], self._row + 1
        for name, metric in self.attention_metrics.items():
            x = metric(view, self.scope)
            if x is None:
                continue
            row.means[name].add(x)
            if name == "alpha":
                self.broken = self.broken + (~x.isfinite() & view.real_NT[:, None]).any(-1).sum().cpu()
                self.found.add(layer, x, view.real_NT, row.causal)
                self._sinking_N = self._sinking_N + sinking(x[..., :1], self.epsilons[0]).nansum((1, 2)).cpu()
                for epsilon in self.epsilons:
                    row.rates[epsilon].add(sinking(x, epsilon).double().nanmean(1))

    def block(self, layer: int, view: BlockView) -> None:
        self.tokens, self.channels = view.h_NTC.shape[1:]
        means = self.blocks.setdefault(layer, defaultdict(Mean))
        for name, metric in self.block_metrics.items():
            x = metric(view, self.scope)
            if name == "massive":
                self._massive(layer, view, x.cpu())
            elif name == "patch_norms":
                self._norms_NT = x.cpu()
            else:
                means[name].add(x)
        if not self.found.samples and self.block_metrics:
            self.surfaces[layer] = _surface(view)

    def _massive(self, layer: int, view: BlockView, found_N8: Tensor) -> None:
        self.massive[layer].append(found_N8)
        if found_N8[:, 4].any():
            places_E3 = massive_places(view, self.scope, found_N8[:, 3]).cpu()
            self.places[layer].append(places_E3 + torch.tensor([self.found.samples, 0, 0]))

    def routed(self, layer: int, chosen_NTk: Tensor, experts: int, real_NT: Tensor) -> None:
        first, load = self.experts[layer]
        first.add(first_token_experts(chosen_NTk, real_NT, experts))
        load.add(expert_load(chosen_NTk, real_NT, experts))

    def end(self, samples: int) -> None:
        """After a batch of so many samples."""
        self.found.end(samples)
        self.norms += [] if self._norms_NT is None else [self._norms_NT]
        heads = sum(row.heads for row in self.rows)
        self.shares += [float(sinking) / heads for sinking in self._sinking_N] if heads else []
        self._row, self._sinking_N = 0, 0.0


def _kind(view: AttentionView) -> str:
    """softmax, window 4,096 (the query itself counted, as configs do), sink logit, …"""
    said = [] if view.weighed_by is None else [view.weighed_by]
    said += [] if view.visible.window is None else [f"window {view.visible.window + 1:,}"]
    said += ["own mask"] if view.visible.also is not None else []
    if view.sink_logit_H is not None:
        said.append("sink key" if view.sink_logit_H.dim() == 3 else "sink logit")
    said += ["ALiBi"] if view.slope_H is not None else []
    said += ["softcap"] if view.softcap is not None else []
    said += ["both directions"] if not view.visible.causal else []
    return ", ".join(said) or "softmax"


def _surface(view: BlockView) -> Tensor:
    """|h| of the first sample: its first tokens, by cells of neighbouring channels, the largest of each."""
    h_TC = view.h_NTC[0, : min(SURFACE_TOKENS, int(view.length_N[0]))].float().abs()
    width = -(-h_TC.shape[1] // SURFACE_CELLS)
    return torch.stack([cell.amax(1) for cell in h_TC.split(width, dim=1)], dim=1).cpu()
