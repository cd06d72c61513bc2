"""The KV cache of a stream that takes its tokens in blocks: exactly the token-by-token rule, many tokens a forward.

After each token a layer keeps the first S tokens and the last W. A token's key and value never depend on later
tokens, so a block of T tokens goes through the model at once: each query sees its window at true distances (the
band), and the sinks at the distance the cache would give them, min(t, S+W) − j (the strip), under one softmax.
Keys are carried un-rotated and rotated once, relative to the block, so no number depends on how far the stream is.

Shapes: B batch (1), H query heads, G key/value heads, T tokens of the block, P past tokens, N sinks, D and E widths.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sinkctl.cache.policies import Keep
from sinkctl.cache.redistribution.heads import Moved
from sinkctl.kernels import stream_attention
from sinkctl.kernels.stream_attention import Strip
from sinkctl.model.handler import AttentionCall, Handler
from sinkctl.model.positions import Rotation, rotate
from sinkctl.model.probe import LayerFacts


@dataclass
class _Layer:
    """One layer's carried keys and values, un-rotated; `k` and `v` end at the last token seen."""

    keep: Keep
    rotation: Rotation | None
    k: Tensor | None = None  # [B, G, P, D]: all tokens until the cache is full, then the last W
    v: Tensor | None = None
    sink_k: Tensor | None = None  # [B, G, N, D], once the cache is full
    sink_v: Tensor | None = None
    room: Tensor | None = None  # [B, G, P+T, E], to whose end the block's values may have been written
    facing_k: Tensor | None = None  # the sinks turned so that an un-rotated query meets them at distance S+W−j


class BlockCache(Handler):
    """Carries every layer's state between blocks and answers the attention layers of an attached model."""

    def __init__(self, layers: list[LayerFacts], keeps: list[Keep], moved: Sequence[Moved | None] | None = None):
        self.seen = 0
        self._layers = [_Layer(keep, facts.rotation) for facts, keep in zip(layers, keeps, strict=True)]
        self._chosen = list(map(implementation, layers, moved or [None] * len(layers)))
        self._index = {id(facts.module): index for index, facts in enumerate(layers)}
        self._devices = [facts.device for facts in layers]
        self._tables: dict[tuple, tuple[Tensor, Tensor]] = {}
        self._last_tables = self._tables  # those of the block before: in the steady state they serve again

    @property
    def implementations(self) -> dict[str, str]:
        """Names of the attention implementations in use, each with its reason."""
        return {implementation.name: reason for implementation, reason in self._chosen}

    def room(self, module: nn.Module, tokens: int) -> Tensor | None:
        layer = self._layers[self._index[id(module)]]
        if layer.v is None or 0 < until_full(layer.keep, self.seen) < tokens:
            return None
        past = layer.v.shape[2]
        layer.room = _token_major(layer.v, past + tokens)
        return layer.room[0, :, past:].transpose(0, 1).flatten(1)

    def attend(self, call: AttentionCall) -> Tensor:
        """Attention of one layer over its carried state and the block; moves the state on."""
        index = self._index[id(call.module)]
        keep, tokens = self._layers[index].keep, call.q_BHTD.shape[2]
        before = until_full(keep, self.seen)
        if not 0 < before < tokens:
            return self._part(index, call, self.seen)
        parts = [
            self._part(index, call.tokens(first, end), self.seen + first)
            for first, end in ((0, before), (before, tokens))
        ]
        return torch.cat(parts, dim=2)

    def _part(self, index: int, call: AttentionCall, seen: int) -> Tensor:
        layer = self._layers[index]
        keep, past = layer.keep, 0 if layer.k is None else layer.k.shape[2]
        tokens = call.q_BHTD.shape[2]
        full = keep.sinks > 0 and seen >= keep.sinks + keep.window + 1
        strip = Strip(call.q_BHTD, self._facing(layer), layer.sink_v) if full else None
        if full and call.slope_H is not None:
            distance_N = torch.arange(keep.sinks + keep.window, keep.window, -1, device=call.q_BHTD.device)
            strip = strip._replace(distance_N=distance_N)
        strip, own = beside(strip, call)
        table = self._table(layer.rotation, -past, tokens, call.q_BHTD)
        out = self._chosen[index][0](
            rotate(call.q_BHTD, layer.rotation, _rows(table, past, None)),
            _rotated(layer, call.k_BGTD, table),
            _joined(layer.v, call.v_BGTE, layer.room),
            scale=call.scale,
            window=None if keep.sinks and not full else keep.window,
            strip=strip,
            sink_logit_H=call.sink_logit_H,
            softcap=call.softcap,
            slope_H=call.slope_H,
            **own,
        )
        self._carry(layer, call.k_BGTD, call.v_BGTE, seen + tokens)
        layer.room = None
        return out

    def advance(self, tokens: int) -> None:
        """Count a block that every layer has attended."""
        self.seen += tokens
        self._last_tables, self._tables = self._tables, {}

    def state(self) -> dict[str, Tensor]:
        """What continues the stream: [B, G, tokens, width] tensors by layer, un-rotated."""
        named = {
            f"{index}.{name}": getattr(layer, name)
            for index, layer in enumerate(self._layers)
            for name in ("k", "v", "sink_k", "sink_v")
        }
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def restore(self, state: dict[str, Tensor], seen: int) -> None:
        """Continue from `state`, `seen` tokens into a stream."""
        self.seen = seen
        for name, tensor in state.items():
            index, part = name.split(".")
            setattr(self._layers[int(index)], part, tensor.to(self._devices[int(index)]))

    def bytes_held(self) -> int:
        """Size of the carried state."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.state().values())

    def _carry(self, layer: _Layer, k: Tensor, v: Tensor, seen: int) -> None:
        """Move a layer's state past a block."""
        sinks, window = layer.keep
        if sinks and seen < sinks + window + 1:
            window = None
        elif sinks and layer.sink_k is None:
            layer.sink_k, layer.sink_v = (_joined(*x)[:, :, :sinks].clone() for x in ((layer.k, k), (layer.v, v)))
        layer.k, layer.v = _last(layer.k, k, window), _last(layer.v, v, window)

    def _facing(self, layer: _Layer) -> Tensor:
        if layer.facing_k is None:
            sinks, window = layer.keep
            table = layer.rotation and layer.rotation.table(range(-sinks - window, -window), layer.sink_k)
            layer.facing_k = rotate(layer.sink_k, layer.rotation, table)
        return layer.facing_k

    def _table(self, rotation: Rotation | None, first: int, end: int, like: Tensor) -> tuple[Tensor, Tensor] | None:
        """Cosines and sines of `first … end−1`, shared by the layers of a block and kept for the next."""
        if rotation is None:
            return None
        key = (id(rotation), first, end, like.device)
        if key not in self._tables:
            held = self._last_tables.get(key)
            self._tables[key] = rotation.table(range(first, end), like) if held is None else held
        return self._tables[key]


def until_full(keep: Keep, seen: int) -> int:
    """Tokens that go before the sinks leave their true distances; a block is cut there."""
    return max(0, keep.sinks + keep.window + 1 - seen) if keep.sinks else 0


def implementation(facts: LayerFacts, moved: Moved | None = None) -> tuple[stream_attention.Implementation, str]:
    q, v = (
        torch.empty(1, heads, 1, width, dtype=facts.dtype, device=facts.device)
        for heads, width in ((facts.heads, facts.width), (facts.kv_heads, facts.value_width))
    )
    weighed_by = facts.sink if facts.weighed else None
    chosen = stream_attention.select(q, v, softcap=facts.softcap, alibi=facts.alibi, weighed_by=weighed_by)
    return chosen if moved is None else moved.around(*chosen, facts)


def beside(strip: Strip | None, call: AttentionCall) -> tuple[Strip | None, dict[str, Any]]:
    """The strip with the layer's own sink key in front, and what else its designed sink asks of an implementation."""
    own = {} if call.weigh is None else {"weigh": call.weigh}
    if call.sink_key is None:
        return strip, own
    assert call.slope_H is None
    (k_GD, v_GE, _), q_BHTD = call.sink_key, call.q_BHTD
    v_GE = k_GD.new_zeros(len(k_GD), call.v_BGTE.shape[-1]) if v_GE is None else v_GE
    key, value = (x.to(q_BHTD.dtype)[None, :, None].expand(len(q_BHTD), -1, -1, -1) for x in (k_GD, v_GE))
    if strip is not None:
        key, value = torch.cat([key, strip.k_BGND], dim=2), torch.cat([value, strip.v_BGNE], dim=2)
    return Strip(q_BHTD, key, value), own


def _rows(table: tuple[Tensor, Tensor] | None, first: int, end: int | None) -> tuple[Tensor, Tensor] | None:
    return table and (table[0][first:end], table[1][first:end])


def _rotated(layer: _Layer, new: Tensor, table: tuple[Tensor, Tensor] | None) -> Tensor:
    """Past and new keys, each rotated once on its way into one buffer."""
    if layer.k is None:
        return rotate(new, layer.rotation, table)
    past = layer.k.shape[2]
    out = _token_major(new, past + new.shape[2])
    rotate(layer.k, layer.rotation, _rows(table, 0, past), out[:, :, :past])
    rotate(new, layer.rotation, _rows(table, past, None), out[:, :, past:])
    return out


def _token_major(like: Tensor, tokens: int) -> Tensor:
    """An empty [B, G, tokens, width] whose memory is ordered as projections write it, so that copies are runs."""
    B, G, _, width = like.shape
    return torch.empty(B, tokens, G, width, dtype=like.dtype, device=like.device).transpose(1, 2)


def _joined(past: Tensor | None, new: Tensor, room: Tensor | None = None) -> Tensor:
    """One after the other; in `room`, where `new` stands at its end already."""
    if past is None:
        return new
    tokens = past.shape[2]
    there = room is not None and room[:, :, tokens:].data_ptr() == new.data_ptr()
    out = room if there else _token_major(new, tokens + new.shape[2])
    out[:, :, :tokens] = past
    if not there:
        out[:, :, tokens:] = new
    return out


def _last(past: Tensor | None, new: Tensor, window: int | None) -> Tensor:
    """The last `window` tokens (None: all), in memory of their own."""
    if past is not None and (window is None or new.shape[2] < window):
        joined = _joined(past, new)
        return joined if window is None or joined.shape[2] <= window else joined[:, :, -window:].clone()
    first = 0 if window is None else max(0, new.shape[2] - window)
    return _token_major(new, new.shape[2] - first).copy_(new[:, :, first:])
