"""The KV cache of generation: a static ring of W+1 slots and S sinks a layer, one token a step, B streams side by side.

Every key is turned once, from its raw value, at its position in its stream counted from S+W, in float64 angles. So the
ring is never touched but for the slot of the new token, and once the cache is full a sink meets every query un-rotated:
a step costs the same however long the stream is, in the same memory, with the same shapes. Prompts, and what a user
says in between, go through in blocks under the same rule.

Shapes: B rows, H query heads, G key/value heads, T tokens of a block, R = W+1 slots, S sinks, D and E widths.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sinkctl.cache.blocks import beside, implementation, until_full
from sinkctl.cache.policies import Keep
from sinkctl.cache.redistribution.heads import Moved
from sinkctl.errors import ModelError
from sinkctl.kernels import decode_attention, stream_attention
from sinkctl.kernels.decode_attention import Ring, Turn
from sinkctl.model.handler import AttentionCall, Handler, places
from sinkctl.model.positions import Rotation, rotate, table_by_row
from sinkctl.model.probe import LayerFacts

# Of each layer, how it turns.
Rotations = list[Rotation | None]


@dataclass(frozen=True)
class Held:
    """What is held of one layer: where, and by which rule."""

    keep: Keep
    ring: NamedTuple  # of tensors, rows first: a `Ring`, or what another cache keeps

    @property
    def origin(self) -> int:
        """The position that counts as 0: the query's, once the cache is full."""
        return self.keep.sinks + self.keep.window


class RingCache(Handler):
    """Holds every layer's ring for `rows` streams, and answers the attention layers of an attached model."""

    def __init__(
        self, layers: list[LayerFacts], keeps: list[Keep], rows: int, capacity: int | None = None,
        moved: Sequence[Moved | None] | None = None,
    ):  # fmt: skip
        """A layer that keeps everything gets `capacity` slots: as many tokens as its streams will ever hold."""
        self.seen, moved = [0] * rows, moved or [None] * len(layers)
        with torch.inference_mode(False):  # what is made inside it cannot be written to outside
            self._layers = [self._made(*each, rows, capacity) for each in zip(layers, keeps, strict=True)]
        self.rotations: list[Rotations] = [[facts.rotation for facts in layers]] * rows  # by row, by layer
        self._index = {id(facts.module): index for index, facts in enumerate(layers)}
        self._blocks = list(map(implementation, layers, moved))
        self._in_blocks = [
            facts.in_blocks or part is not None or not isinstance(layer.ring, Ring)
            for facts, part, layer in zip(layers, moved, self._layers, strict=True)
        ]
        self._steps = [
            block if in_blocks else decode_attention.select(layer.ring, facts.value_width)
            for facts, layer, block, in_blocks in zip(layers, self._layers, self._blocks, self._in_blocks, strict=True)
        ]
        self._capacity = capacity if any(keep.window is None for keep in keeps) else None
        # Where each row stands, on every device, so that a step can be replayed without the host.
        devices = {facts.device for facts in layers}
        self._t_B = {device: torch.zeros(rows, dtype=torch.int64, device=device) for device in devices}
        self._real: list[list[int]] | None = None  # of the next block, each row's tokens; None: all of them
        self._tables: dict[tuple, tuple[Tensor, Tensor]] = {}
        self._turns: dict[tuple, Turn] = {}

    def _made(self, facts: LayerFacts, keep: Keep, rows: int, capacity: int | None) -> "Held":
        """An empty ring."""
        if keep.window is None:
            assert capacity is not None
            keep = Keep(keep.sinks, capacity - 1)
        sizes = [(n, width) for n in (keep.window + 1, keep.sinks) for width in (facts.width, facts.value_width)]
        like = dict(dtype=facts.dtype, device=facts.device)
        return Held(keep, Ring(*(torch.zeros(rows, facts.kv_heads, *size, **like) for size in sizes)))

    @property
    def implementations(self) -> dict[str, str]:
        """Names of the attention implementations of steps, each with its reason."""
        return {implementation.name: reason for implementation, reason in self._steps}

    @property
    def block_implementations(self) -> dict[str, str]:
        """Those of blocks."""
        return {implementation.name: reason for implementation, reason in self._blocks}

    def expect(self, real_BT: Tensor | None) -> None:
        """Say which tokens of the next block are padding, which must never be kept or seen."""
        self._real = places(real_BT)

    def attend(self, call: AttentionCall) -> Tensor:
        """Attention of one layer over its ring and the new tokens, which it takes in."""
        index = self._index[id(call.module)]
        if index == 0:
            self._turns = {}
        if call.q_BHTD.shape[2] == 1 and self._real is None and self._in_one_step(index):
            return self._step(index, call)
        if self._real is None and len(set(self.seen)) == 1 and self._turn_alike:
            return self._block(index, call, slice(None), 0)
        B, H, T, _ = call.q_BHTD.shape
        out_BTHE = call.q_BHTD.new_zeros(B, T, H, call.v_BGTE.shape[-1])
        for rows, columns in self._alike(T):
            part = self._block(index, call.rows(rows).columns(columns), rows, int(rows[0]))
            out_BTHE[rows[:, None], columns[None]] = part.transpose(1, 2)
        return out_BTHE.transpose(1, 2)

    def advance(self, tokens: int) -> None:
        """Count the tokens that every layer has attended."""
        for row in range(len(self.seen)):
            self.seen[row] += tokens if self._real is None else len(self._real[row])
        if self._capacity is not None and max(self.seen) > self._capacity:
            raise ModelError(f"the cache was made for {self._capacity} tokens, all kept; it cannot take more")
        for t_B in self._t_B.values():
            t_B.add_(tokens) if self._real is None else t_B.copy_(torch.tensor(self.seen))
        self._real = None
        self._tables = {}

    def count(self, steps: int) -> None:
        """Count steps that were replayed on the device, clock and all."""
        self.seen = [seen + steps for seen in self.seen]

    def rehearse(self, on: bool) -> None:
        """While on, steps are done over from the same place; the slot of a token is all that they change."""

    def rewind(self, seen: Sequence[int]) -> None:
        """Forget the latest token or none: the slot it took was that of a token which no longer counts."""
        assert all(0 <= now - before <= 1 for now, before in zip(self.seen, seen, strict=True))
        self._set(seen)

    def select(self, rows: Tensor) -> None:
        """Make row i continue what was row rows[i]."""
        for layer in self._layers:
            for buffer in layer.ring:
                buffer.copy_(buffer[rows.to(buffer.device)])
        self.rotations = [self.rotations[row] for row in rows.tolist()]
        self._set([self.seen[row] for row in rows.tolist()])

    def restart(self) -> None:
        """Forget all that was seen."""
        self._set([0] * len(self.seen))

    def state(self) -> dict[str, Tensor]:
        """What continues the streams, with `seen`."""
        return {
            f"{index}.{name}": buffer
            for index, layer in enumerate(self._layers)
            for name, buffer in layer.ring._asdict().items()
        }

    def restore(self, state: dict[str, Tensor], seen: Sequence[int]) -> None:
        """Continue from `state`."""
        for name, buffer in self.state().items():
            buffer.copy_(state[name])
        self._set(seen)

    def bytes_held(self) -> int:
        """Size of all rings."""
        return sum(buffer.numel() * buffer.element_size() for buffer in self.state().values())

    def _set(self, seen: Sequence[int]) -> None:
        self.seen = list(seen)
        for t_B in self._t_B.values():
            t_B.copy_(torch.tensor(self.seen))

    @property
    def _turn_alike(self) -> bool:
        return all(rotations is self.rotations[0] for rotations in self.rotations)

    def _alike(self, tokens: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(rows, columns that are no padding) of the rows that can go through a block together."""
        kinds: dict[tuple, list[int]] = {}
        for row, seen in enumerate(self.seen):
            columns = range(tokens) if self._real is None else self._real[row]
            if columns:
                kinds.setdefault((id(self.rotations[row]), seen, *columns), []).append(row)
        for (_, _, *columns), rows in kinds.items():
            yield torch.tensor(rows), torch.tensor(columns)

    def _in_one_step(self, index: int) -> bool:
        """Whether a kernel does a layer's single tokens, those of all rows at once."""
        return not self._in_blocks[index]

    def _step(self, index: int, call: AttentionCall) -> Tensor:
        layer = self._layers[index]
        # A captured step may be replayed on a ring that is not.
        full = min(self.seen) > layer.origin and not (call.q_BHTD.is_cuda and torch.cuda.is_current_stream_capturing())
        out_BHE = self._steps[index][0](
            *(x[:, :, 0] for x in (call.q_BHTD, call.k_BGTD, call.v_BGTE)),
            layer.ring,
            self._t_B[call.q_BHTD.device],
            turn=self._turn(index, call.q_BHTD),
            scale=call.scale,
            sink_logit_H=call.sink_logit_H,
            softcap=call.softcap,
            slope_H=call.slope_H,
            full=full,
        )
        return out_BHE[:, :, None]

    def _turn(self, index: int, like: Tensor) -> Turn | None:
        """This step's cosines and sines, shared by the layers that turn alike."""
        layer, by_row = self._layers[index], [rotations[index] for rotations in self.rotations]
        if by_row[0] is None:
            return None
        key = (*map(id, by_row), layer.origin, like.device)
        if key not in self._turns:
            # Positions need float64, which MPS has not.
            t_B = torch.tensor(self.seen) if like.device.type == "mps" else self._t_B[like.device]
            place_B = t_B - layer.origin
            tables = (table_by_row(by_row, place, like) for place in (place_B, place_B.clamp(max=0)))
            both = [table for pair in tables for table in pair]
            self._turns[key] = Turn(*both, by_row[0].start, by_row[0].layout == "interleaved")
        return self._turns[key]

    def _block(self, index: int, call: AttentionCall, rows: slice | Tensor, first_row: int) -> Tensor:
        """Attention over a block of rows that stand at the same place and turn alike, as `first_row` does."""
        keep, tokens, seen = self._layers[index].keep, call.q_BHTD.shape[2], self.seen[first_row]
        rotation = self.rotations[first_row][index]
        before = until_full(keep, seen)
        if not 0 < before < tokens:
            return self._part(index, call, rows, seen, rotation)
        spans = (0, before), (before, tokens)
        parts = [self._part(index, call.tokens(a, b), rows, seen + a, rotation) for a, b in spans]
        return torch.cat(parts, dim=2)

    def _part(
        self, index: int, call: AttentionCall, rows: slice | Tensor, seen: int, rotation: Rotation | None
    ) -> Tensor:
        layer = self._layers[index]
        sinks, window = layer.keep
        tokens, ring = call.q_BHTD.shape[2], layer.ring
        full = sinks > 0 and seen >= sinks + window + 1
        table = self._table(rotation, layer.origin, seen, seen + tokens, call.q_BHTD)
        q, k = (rotate(x, rotation, table) for x in (call.q_BHTD, call.k_BGTD))
        strip = None
        if full:
            distance_S = None if call.slope_H is None else torch.arange(sinks + window, window, -1, device=q.device)
            strip = stream_attention.Strip(call.q_BHTD, ring.sink_k_BGSD[rows], ring.sink_v_BGSE[rows], distance_S)
        strip, own = beside(strip, call)
        past_k, past_v = self._past(layer, rows, seen, whole=not full)
        out = self._blocks[index][0](
            q,
            torch.cat([past_k, k], dim=2),
            torch.cat([past_v, call.v_BGTE], dim=2),
            scale=call.scale,
            window=None if sinks and not full else window,
            strip=strip,
            sink_logit_H=call.sink_logit_H,
            softcap=call.softcap,
            slope_H=call.slope_H,
            **own,
        )
        self._take(layer, rows, seen, k, call.v_BGTE)
        return out

    def _past(self, layer: Held, rows: slice | Tensor, seen: int, whole: bool) -> tuple[Tensor, Tensor]:
        """Keys and values of the last W tokens in order; the sinks too, where they are ordinary tokens still."""
        sinks, window = layer.keep
        ring = layer.ring
        slots = (torch.arange(max(sinks, seen - window), max(sinks, seen)) - sinks) % (window + 1)
        slots = slots.to(ring.k_BGRD.device)
        past = (ring.k_BGRD[rows][:, :, slots], ring.v_BGRE[rows][:, :, slots])
        if not whole or not sinks:
            return past
        first = (ring.sink_k_BGSD[rows][:, :, :seen], ring.sink_v_BGSE[rows][:, :, :seen])
        return tuple(torch.cat(pair, dim=2) for pair in zip(first, past, strict=True))

    def _take(self, layer: Held, rows: slice | Tensor, seen: int, k: Tensor, v: Tensor) -> None:
        """Put a block's tokens where they belong."""
        sinks, window = layer.keep
        ring, tokens = layer.ring, k.shape[2]
        first = min(max(sinks - seen, 0, tokens - (window + 1)), tokens)  # the first that goes to the ring
        slots = ((torch.arange(seen + first, seen + tokens) - sinks) % (window + 1)).to(k.device)
        at = torch.arange(len(self.seen), device=k.device)[rows if isinstance(rows, slice) else rows.to(k.device)]
        for buffer, kept, new in ((ring.k_BGRD, ring.sink_k_BGSD, k), (ring.v_BGRE, ring.sink_v_BGSE, v)):
            buffer[at[:, None], :, slots[None]] = new[:, :, first:].transpose(1, 2)
            own = min(max(sinks - seen, 0), tokens)
            if own:
                kept[at, :, seen : seen + own] = new[:, :, :own]

    def _table(
        self, rotation: Rotation | None, origin: int, first: int, end: int, like: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """Cosines and sines of positions `first … end−1`, shared by the layers of a block."""
        if rotation is None:
            return None
        key = (id(rotation), origin, first, end, like.device)
        if key not in self._tables:
            self._tables[key] = rotation.table(range(first - origin, end - origin), like)
        return self._tables[key]
