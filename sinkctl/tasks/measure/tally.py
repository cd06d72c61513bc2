"""What the batches of one input add up to: means over samples of every metric, by layer, and the sinks found.

N samples, H heads, T tokens of the longest sample; a *row* is one softmax attention of the model, mostly one a layer.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from sinkctl.metrics import ATTENTION, BLOCK, CROSS, MEANS_OF_HEADS
from sinkctl.metrics.alpha import countable
from sinkctl.metrics.cross import CrossView
from sinkctl.metrics.experts import expert_load, first_token_experts
from sinkctl.metrics.massive import massive_places
from sinkctl.metrics.rank import gram, spectrum
from sinkctl.metrics.views import AttentionView, BlockView, Scope
from sinkctl.model.parallel import all_heads
from sinkctl.tasks.measure.found import Finder

SURFACE_TOKENS, SURFACE_CELLS = 48, 128
WAITING = 1 << 26  # elements of the matrices that wait for their spectrum


@dataclass
class Mean:
    """A mean over samples that leaves out what is not finite; summed in float64, on the device until it is asked."""

    total: Tensor | float = 0.0
    count: Tensor | float = 0.0

    def add(self, x_N: Tensor) -> None:
        for told in ("fetched", "value"):  # of what was added before
            vars(self).pop(told, None)
        there = x_N.abs() < torch.inf
        self.total = self.total + x_N.masked_fill(~there, 0.0).sum(0, dtype=torch.float64)
        self.count = self.count + there.sum(0)

    @cached_property
    def fetched(self) -> tuple[Tensor, Tensor]:
        """Total and count on the CPU."""
        return self.total.cpu(), self.count.cpu()

    @cached_property
    def value(self) -> Tensor:
        """float64 on the CPU, NaN where no sample had a number."""
        total, count = self.fetched
        return total / count


@dataclass
class Means(Mapping):
    """Means of several metrics of one layer, by name; those of a batch are added side by side, in one go."""

    _sums: dict[tuple[tuple[str, torch.Size], ...], Mean] = field(default_factory=lambda: defaultdict(Mean))

    def add(self, found: dict[str, Tensor]) -> None:
        if found:
            layout = tuple((name, x.shape[1:]) for name, x in found.items())
            self._sums[layout].add(torch.cat([x.reshape(len(x), -1) for x in found.values()], dim=1))

    def __getitem__(self, name: str) -> Mean:
        parts = [part for layout, mean in self._sums.items() if (part := _part(layout, mean, name)) is not None]
        if not parts:
            raise KeyError(name)
        return Mean(sum(part.total for part in parts), sum(part.count for part in parts))

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name for layout in self._sums for name, _ in layout))

    def __len__(self) -> int:
        return len(list(iter(self)))


def _part(layout: tuple[tuple[str, torch.Size], ...], mean: Mean, name: str) -> Mean | None:
    start = 0
    for part, shape in layout:
        end = start + shape.numel()
        if part == name:
            return Mean(*(x[start:end].reshape(shape) for x in mean.fetched))
        start = end
    return None


@dataclass
class Row:
    """One softmax attention."""

    layer: int
    heads: int
    causal: bool
    kind: str
    means: Means = field(default_factory=Means)
    rates: dict[float, Mean] = field(default_factory=lambda: defaultdict(Mean))  # ε → share of heads, by key


@dataclass
class Tally:
    """A `metrics.observe.Measurer`; `end` closes each batch."""

    scope: Scope
    epsilons: tuple[float, ...]
    attention_metrics: dict[str, Callable] = field(default_factory=lambda: ATTENTION)
    block_metrics: dict[str, Callable] = field(default_factory=lambda: BLOCK)
    rows: list[Row] = field(default_factory=list)
    blocks: dict[int, Means] = field(default_factory=lambda: defaultdict(Means))
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
    _length_N: Tensor | None = None
    _grams: list[tuple[int, Tensor]] = field(default_factory=list)  # of layers whose rank waits for others

    def __post_init__(self) -> None:
        self.found = Finder(self.epsilons[0])

    def attention(self, layer: int, view: AttentionView) -> None:
        if not self.attention_metrics:
            return
        if self._row == len(self.rows):
            heads = view.q_NHTD.shape[1] * view.sharers
            self.rows.append(Row(layer, heads, view.visible.causal, _kind(view)))
        row, self._row = self.rows[self._row], self._row + 1
        self.tokens = view.real_NT.shape[1]
        metrics = self.attention_metrics
        if isinstance(view, CrossView):
            metrics = {name: metric for name, metric in CROSS.items() if name in metrics}
        found = {name: metric(view, self.scope) for name, metric in metrics.items()}
        found = {name: _of_all(name, x, view.sharers) for name, x in found.items() if x is not None}
        row.means.add(found)
        if "alpha" in found:
            self._sinks(layer, row, view, found["alpha"])

    def _sinks(self, layer: int, row: Row, view: AttentionView, alpha_NHT: Tensor) -> None:
        numbers_NHT = alpha_NHT.abs() < torch.inf
        self._add("broken", (numbers_NHT.sum(-1) < view.length_N[:, None]).sum())
        heads_NT = alpha_NHT.shape[1] - alpha_NHT.isnan().sum(1)
        for epsilon in self.epsilons:
            sinking_NT = (alpha_NHT > epsilon).sum(1)
            row.rates[epsilon].add(sinking_NT.double() / heads_NT)
            if epsilon == self.epsilons[0]:
                counted_NT = view.shared.once(("countable", view.pattern), lambda: countable(view))
                self.found.add(layer, alpha_NHT, sinking_NT, counted_NT)
                self._add("_sinking_N", sinking_NT[:, 0])

    def _add(self, name: str, x: Tensor) -> None:
        """To a sum over layers, which may be on several devices."""
        before = getattr(self, name)
        setattr(self, name, before + (x.to(before.device) if isinstance(before, Tensor) else x))

    def block(self, layer: int, view: BlockView) -> None:
        self.tokens, self.channels = view.h_NTC.shape[1:]
        wait = "rank" in self.block_metrics and view.h_NTC.is_cuda
        found = {name: f(view, self.scope) for name, f in self.block_metrics.items() if not (wait and name == "rank")}
        self._norms_NT = found.pop("patch_norms", None)
        if (massive_N8 := found.pop("massive", None)) is not None:
            self._massive(layer, view, massive_N8.cpu())
        self.blocks[layer].add(found)
        if wait:
            self._grams.append((layer, gram(view)))
            if sum(gram_NXX.numel() for _, gram_NXX in self._grams) > WAITING:
                self._ranks()
        if not self.found.samples and self.block_metrics:
            self.surfaces[layer], self._length_N = _surface(view), view.length_N

    def _massive(self, layer: int, view: BlockView, found_N8: Tensor) -> None:
        self.massive[layer].append(found_N8)
        if found_N8[:, 4].any():
            places_E3 = massive_places(view, self.scope, found_N8[:, 3]).cpu()
            self.places[layer].append(places_E3 + torch.tensor([self.found.samples, 0, 0]))

    def _ranks(self) -> None:
        """Of the layers that wait, those of one size together."""
        for shape in dict.fromkeys((gram_NXX.shape, gram_NXX.device) for _, gram_NXX in self._grams):
            alike = [(layer, g) for layer, g in self._grams if (g.shape, g.device) == shape]
            found = spectrum(torch.cat([gram_NXX for _, gram_NXX in alike])).split(len(alike[0][1]))
            for (layer, _), rank_N3 in zip(alike, found, strict=True):
                self.blocks[layer].add({"rank": rank_N3})
        self._grams.clear()

    def routed(self, layer: int, chosen_NTk: Tensor, experts: int, real_NT: Tensor) -> None:
        first, load = self.experts[layer]
        first.add(first_token_experts(chosen_NTk, real_NT, experts))
        load.add(expert_load(chosen_NTk, real_NT, experts))

    def end(self, samples: int) -> None:
        """After a batch of so many samples."""
        if not self.found.samples and self.surfaces:
            first = int(self._length_N[0])
            self.surfaces = {layer: cells[:first].cpu() for layer, cells in self.surfaces.items()}
        self._ranks()
        self.found.end(samples)
        self.norms += [] if self._norms_NT is None else [self._norms_NT.cpu()]
        heads = sum(row.heads for row in self.rows)
        self.shares += [sinking / heads for sinking in self._sinking_N.tolist()] if heads else []
        self._row, self._sinking_N = 0, 0.0


def _of_all(name: str, x: Tensor, sharers: int) -> Tensor:
    """What a metric is over the heads of all processes that share the layer."""
    if sharers > 1 and name in MEANS_OF_HEADS:
        return all_heads(x[:, None], sharers).mean(1)
    return all_heads(x, sharers)


def _kind(view: AttentionView) -> str:
    """softmax, window 4,096 (the query itself counted, as configs do), sink logit, …"""
    if isinstance(view, CrossView):
        return "cross-attention"
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
    h_TC = view.h_NTC[0, :SURFACE_TOKENS].float().abs()
    width = -(-h_TC.shape[1] // SURFACE_CELLS)
    return torch.nn.functional.pad(h_TC, (0, -h_TC.shape[1] % width)).unflatten(1, (-1, width)).amax(-1)
