"""Heads of one layer under two rules: each part of them in a cache of its own, as if it were a layer.

Shapes: B rows, H query heads, G key/value heads, T tokens, D and E widths.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sinkctl.cache.blocks import BlockCache
from sinkctl.cache.policies import Keep, PerHead
from sinkctl.cache.ring import RingCache
from sinkctl.errors import ModelError, UsageError
from sinkctl.model.handler import AttentionCall, Handler
from sinkctl.model.probe import LayerFacts

Make = Callable[[list[LayerFacts], list[Keep]], BlockCache | RingCache]


class SplitCache(Handler):
    """Two caches, of the heads that keep everything and of the others; it is used as one of them is."""

    def __init__(self, layers: Sequence[LayerFacts], policy: PerHead, make: Make):
        _check(layers, policy)
        self._index = {id(facts.module): index for index, facts in enumerate(layers)}
        self._heads, self._caches, self._layers = [], [], []
        self._rotations: list[list] = []
        for whole in (True, False):
            chosen = [[g for g in range(f.kv_heads) if ((f.number, g) in policy.whole) == whole] for f in layers]
            held = [index for index, heads in enumerate(chosen) if heads]
            parts = [_part(layers[index], len(chosen[index])) for index in held]
            keeps = [Keep(0, f.window) if whole else policy.others.keep(f.window, f.number) for f in parts]
            self._heads.append([torch.tensor(heads, device=f.device) for heads, f in zip(chosen, layers, strict=True)])
            self._caches.append(make(parts, keeps))
            self._layers.append(held)

    def attend(self, call: AttentionCall) -> Tensor:
        """Attention of one layer, part by part."""
        index, out = self._index[id(call.module)], None
        for heads, cache in zip(self._heads, self._caches, strict=True):
            if not len(heads[index]):
                continue
            own, queries = _of_heads(call, heads[index])
            found_BhTE = cache.attend(own)
            out = found_BhTE.new_empty(*call.q_BHTD.shape[:3], found_BhTE.shape[-1]) if out is None else out
            out[:, queries] = found_BhTE
        return out

    def watched(self, model: PreTrainedModel) -> list[tuple[nn.Module, Callable]]:
        """What either part is to be shown."""
        return [each for cache in self._caches for each in cache.watched(model)]

    @property
    def implementations(self) -> dict[str, str]:
        """Names of the attention implementations in use, each with its reason."""
        return self._caches[0].implementations | self._caches[1].implementations

    @property
    def block_implementations(self) -> dict[str, str]:
        """Those of blocks."""
        return self._caches[0].block_implementations | self._caches[1].block_implementations

    @property
    def seen(self) -> int | list[int]:
        """Tokens that every layer has attended, by row where there are rows."""
        return self._caches[0].seen

    @property
    def rotations(self) -> list[list]:
        """By row, by layer."""
        return self._rotations

    @rotations.setter
    def rotations(self, by_row: list[list]) -> None:
        self._rotations = by_row
        for cache, held in zip(self._caches, self._layers, strict=True):
            alike: dict[int, list] = {}  # rows that turn alike go on sharing one list
            cache.rotations = [alike.setdefault(id(row), [row[index] for index in held]) for row in by_row]

    def state(self) -> dict[str, Tensor]:
        """What continues the streams: by part, as each has it."""
        return {f"{n}/{name}": tensor for n, cache in enumerate(self._caches) for name, tensor in cache.state().items()}

    def restore(self, state: dict[str, Tensor], seen: int | Sequence[int]) -> None:
        """Continue from `state`."""
        for number, cache in enumerate(self._caches):
            front = f"{number}/"
            cache.restore({name.removeprefix(front): x for name, x in state.items() if name.startswith(front)}, seen)

    def bytes_held(self) -> int:
        """Size of keys and values."""
        return sum(cache.bytes_held() for cache in self._caches)

    def expect(self, real_BT: Tensor | None) -> None:
        """As a ring has it, and so all below."""
        self._both("expect", real_BT)

    def advance(self, tokens: int) -> None:
        self._both("advance", tokens)

    def count(self, steps: int) -> None:
        self._both("count", steps)

    def rehearse(self, on: bool) -> None:
        self._both("rehearse", on)

    def rewind(self, seen: Sequence[int]) -> None:
        self._both("rewind", seen)

    def select(self, rows: Tensor) -> None:
        self._both("select", rows)

    def restart(self) -> None:
        self._both("restart")

    def _both(self, name: str, *arguments) -> None:
        for cache in self._caches:
            getattr(cache, name)(*arguments)


def _check(layers: Sequence[LayerFacts], policy: PerHead) -> None:
    for facts in layers:
        if facts.weighed or facts.sink_key:
            raise ModelError(f"--policy {policy.kind}: heads of a designed sink ({facts.sink}) cannot be told apart")
    known = {(facts.number, head) for facts in layers for head in range(facts.kv_heads)}
    if unknown := sorted(set(policy.whole) - known):
        layer, head = unknown[0]
        raise UsageError(
            f"--policy {policy.label}: key/value head {head} of layer {layer} is none; layers with attention are "
            f"{', '.join(sorted({str(f.number) for f in layers}, key=int))}, of {layers[0].kv_heads} heads"
        )
    if len(known) == len(set(policy.whole)):
        raise UsageError(f"--policy {policy.label}: all heads are whole; that is --policy dense")


def _part(facts: LayerFacts, heads: int) -> LayerFacts:
    return replace(facts, kv_heads=heads, heads=facts.heads // facts.kv_heads * heads)


def _of_heads(call: AttentionCall, heads_g: Tensor) -> tuple[AttentionCall, Tensor]:
    """The same call for some of its key/value heads, and which query heads those have."""
    each = call.q_BHTD.shape[1] // call.k_BGTD.shape[1]
    queries = (heads_g[:, None] * each + torch.arange(each, device=heads_g.device)).flatten()
    logit, slope = (None if x is None else x[queries] for x in (call.sink_logit_H, call.slope_H))
    k, v = call.k_BGTD[:, heads_g], call.v_BGTE[:, heads_g]
    own = replace(call, q_BHTD=call.q_BHTD[:, queries], k_BGTD=k, v_BGTE=v, sink_logit_H=logit, slope_H=slope)
    return own, queries
