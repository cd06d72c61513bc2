"""A ring whose keys and values are rounded once they are not recent; blocks and single tokens alike.

Whatever goes through it, in blocks of any size, each query sees what it would see token by token (`settings.py` says
what that is). Rounded keys and values are packed. Blocks dequantize them a layer at a time; single tokens do where no
kernel reads them as they are (`steps.py`). A layer that keeps too few tokens for any to be rounded is one of an
ordinary ring.

Shapes: B rows, H query heads, G key/value heads, T tokens of a block, S sinks, D and E widths.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sinkctl.cache.blocks import beside
from sinkctl.cache.policies import Keep
from sinkctl.cache.precision.block import Block
from sinkctl.cache.precision.forms import FOREVER, Form, attention
from sinkctl.cache.precision.kept import FREE, kept
from sinkctl.cache.precision.predicted import Watched, watched
from sinkctl.cache.precision.settings import Precision
from sinkctl.cache.precision.steps import Turns, rule_of, step_of
from sinkctl.cache.precision.store import empty, grown
from sinkctl.cache.ring import Held, RingCache
from sinkctl.errors import UsageError
from sinkctl.kernels.implementation import Implementation
from sinkctl.kernels.rounded_decode import Store
from sinkctl.model.handler import AttentionCall
from sinkctl.model.positions import Rotation, rotate
from sinkctl.model.probe import LayerFacts

CHOSEN = Implementation("rounded", attention), "plain torch: each form of a key is a key of its own, dequantized"


class RoundedRing(RingCache):
    """Holds every layer's keys and values for `rows` streams at some precision."""

    def __init__(
        self, layers: list[LayerFacts], keeps: list[Keep], precision: Precision, rows: int = 1,
        capacity: int | None = None,
    ):  # fmt: skip
        """A layer that keeps everything has room for `capacity` tokens; where that is None it grows.

        Raises UsageError where groups of channels do not divide the width of a layer.
        """
        assert not precision.predicts or precision.massive is not None
        self._precision, self._facts, self._angles, self._rehearses = precision, layers, Turns(), False
        super().__init__(layers, keeps, rows, capacity)
        self._told_BT: Tensor | None = None  # of the block under way
        # By layer, of each row: the number of the predicted token in a slot.
        self._admitted = {
            index: torch.full((rows, slots), FREE)
            for index, (facts, layer) in enumerate(zip(layers, self._layers, strict=True))
            if isinstance(layer.ring, Store) and (slots := precision.slots(facts.number))
        }
        for index, layer in enumerate(self._layers):
            if isinstance(layer.ring, Store):
                step, reason = step_of(layers[index], precision, layer.keep)
                self._blocks[index] = CHOSEN
                self._in_blocks[index] = step is None
                self._steps[index] = (CHOSEN[0], f"{CHOSEN[1]} ({reason})") if step is None else (step, reason)

    def _made(self, facts: LayerFacts, keep: Keep, rows: int, capacity: int | None) -> Held:
        precision = self._precision
        if keep.window is not None and keep.window < precision.least_window:
            return super()._made(facts, keep, rows, capacity)
        _check_widths(precision, facts)
        window = keep.window or max(capacity or 0, precision.least_window)
        return Held(keep, empty(facts, precision, rows, keep.sinks, window))

    def watched(self, model: PreTrainedModel) -> list[Watched]:
        return watched(model, self._facts, self._precision, self.tell)

    def tell(self, told_BT: Tensor) -> None:
        """Say which tokens of the block under way are predicted, before the layers that keep them attend."""
        self._told_BT = told_BT

    def attend(self, call: AttentionCall) -> Tensor:
        """Attention of one layer over its ring and the new tokens, which it takes in."""
        if self._index[id(call.module)] in self._admitted:
            assert self._told_BT is not None
            call = replace(call, told_BT=self._told_BT)
        return super().attend(call)

    def advance(self, tokens: int) -> None:
        """Count the tokens that every layer has attended."""
        super().advance(tokens)
        self._told_BT = None

    def rewind(self, seen: Sequence[int]) -> None:
        """Forget the latest token or none."""
        super().rewind(seen)
        for admitted in self._admitted.values():
            admitted[admitted >= torch.tensor(self.seen)[:, None]] = FREE

    def restart(self) -> None:
        """Forget all that was seen."""
        super().restart()
        for admitted in self._admitted.values():
            admitted.fill_(FREE)

    def select(self, rows: Tensor) -> None:
        """Make row i continue what was row rows[i]."""
        super().select(rows)
        self._admitted = {index: admitted[rows.cpu()] for index, admitted in self._admitted.items()}

    def state(self) -> dict[str, Tensor]:
        """What continues the streams, with `seen`."""
        return super().state() | {f"{index}.admitted": admitted for index, admitted in self._admitted.items()}

    def restore(self, state: dict[str, Tensor], seen: Sequence[int]) -> None:
        """Continue from `state`."""
        self._room(max(seen))
        super().restore(state, seen)

    def _room(self, tokens: int) -> None:
        """Let the layers that keep everything have room for so many tokens."""
        for index, layer in enumerate(self._layers):
            if layer.keep.window is None:
                self._layers[index] = Held(layer.keep, grown(layer.ring, self._precision, tokens))

    def rehearse(self, on: bool) -> None:
        """While on, steps leave nothing that a step done over must not find."""
        self._rehearses = on

    def _in_one_step(self, index: int) -> bool:
        return super()._in_one_step(index) and (self._turn_alike or not isinstance(self._layers[index].ring, Store))

    def _step(self, index: int, call: AttentionCall) -> Tensor:
        if not isinstance(self._layers[index].ring, Store):
            return super()._step(index, call)
        if self._layers[index].keep.window is None:
            self._room(max(self.seen) + 1)
        layer, facts = self._layers[index], self._facts[index]
        sinks, window = layer.keep
        reach = (self._capacity or max(self.seen) + 1) if window is None else sinks + window + self._precision.together
        rotation = self.rotations[0][index]
        out_BHE = self._steps[index][0](
            *(x[:, :, 0] for x in (call.q_BHTD, call.k_BGTD, call.v_BGTE)),
            layer.ring,
            self._t_B[call.q_BHTD.device],
            rule=rule_of(self._precision, layer.keep),
            angles=self._angles.of(rotation, facts, self._precision.together, reach),
            scale=call.scale,
            sink_logit_H=call.sink_logit_H,
            softcap=call.softcap,
            take=not self._rehearses,
        )
        return out_BHE[:, :, None]

    def _part(
        self, index: int, call: AttentionCall, rows: slice | Tensor, seen: int, rotation: Rotation | None
    ) -> Tensor:
        if not isinstance(self._layers[index].ring, Store):
            return super()._part(index, call, rows, seen, rotation)
        if self._layers[index].keep.window is None:
            self._room(seen + call.q_BHTD.shape[2])
        number_B = torch.arange(len(self.seen))[rows]
        alike = self._alike_in(index, call, number_B)
        if len(alike) == 1:
            return self._alone(index, call, rows, number_B, seen, rotation)
        (B, H, T, _), out_BHTE = call.q_BHTD.shape, None
        for own in alike:
            part = self._alone(index, call.rows(own), number_B[own], number_B[own], seen, rotation)
            out_BHTE = part.new_empty(B, H, T, part.shape[-1]) if out_BHTE is None else out_BHTE
            out_BHTE[own] = part
        return out_BHTE

    def _alike_in(self, index: int, call: AttentionCall, number_B: Tensor) -> list[Tensor]:
        """Places of rows that keep the same tokens in full, a kind each."""
        if index not in self._admitted:
            return [torch.arange(len(number_B))]
        kinds: dict[tuple, list[int]] = {}
        for place, (held, told) in enumerate(zip(self._admitted[index][number_B], call.told_BT, strict=True)):
            kinds.setdefault((*held.tolist(), *told.nonzero()[:, 0].tolist()), []).append(place)
        return [torch.tensor(places) for places in kinds.values()]

    def _alone(
        self, index: int, call: AttentionCall, rows: slice | Tensor, number_B: Tensor, seen: int,
        rotation: Rotation | None,
    ) -> Tensor:  # fmt: skip
        """Attention over a block of rows that differ in nothing but their numbers; `rows` are `number_B`."""
        keep, store = self._layers[index].keep, self._layers[index].ring
        q_BHTD, reach = call.q_BHTD, keep.sinks + (keep.window or 0)
        held, told = (), ()
        if index in self._admitted:
            held = self._admitted[index][number_B[0]].tolist()
            told = (call.told_BT[0].nonzero()[:, 0] + seen).tolist()
        in_full = kept(self._precision, keep, seen, seen + q_BHTD.shape[2], held, told)
        block = Block(self._precision, keep, store, rows, seen, call.k_BGTD, call.v_BGTE, in_full)
        table = self._table(rotation, seen, block.oldest, block.end, q_BHTD)

        def turned(x: Tensor, first: int | Tensor) -> Tensor:
            own = first - block.oldest
            own = own.to(x.device) if isinstance(own, Tensor) else slice(own, own + x.shape[2])
            return rotate(x, rotation, table and tuple(each[own] for each in table))

        forms = block.forms(turned)
        strip, own = beside(None, call)
        if strip is not None:
            forms.append(_always(strip.k_BGND, strip.v_BGNE, 0))
        if block.apart:
            k, v = block.sinks()
            forms.append(_always(rotate(k, rotation, self._table(rotation, reach, 0, keep.sinks, q_BHTD)), v, reach))
        out = attention(
            turned(q_BHTD, seen), q_BHTD, forms, seen, scale=call.scale, sink_logit_H=call.sink_logit_H,
            softcap=call.softcap, slope_H=call.slope_H, **own,
        )  # fmt: skip
        block.take(number_B.to(q_BHTD.device))
        if index in self._admitted:
            self._admitted[index][number_B] = torch.tensor(in_full.admitted)
        return out


def _always(k: Tensor, v: Tensor, met_at: int) -> Form:
    """Keys that every query meets as if it had this number, before its rotation."""
    number_S = torch.arange(k.shape[2])
    return Form(k, v, number_S, torch.zeros_like(number_S), torch.full_like(number_S, FOREVER), met_at)


def _check_widths(precision: Precision, facts: LayerFacts) -> None:
    """UsageError for a layer that cannot be cut into groups."""
    for what, width in (("values", facts.value_width), ("keys", facts.width)):
        if (problem := precision.misfit(what, width)) is not None:
            raise UsageError(f"{problem} ({facts.name})")
