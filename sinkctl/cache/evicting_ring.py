"""Eviction in generation: single tokens of all rows at once, in memory that stays where it is.

What is held is what `EvictingCache` holds, in buffers made once. How many tokens that is follows from how many were
seen, and which of them go by attention is decided on the device; so a step asks the host nothing, and can be captured.
Blocks go through in pieces, rows side by side whatever their lengths. What this does not know goes through as there.

Shapes: B rows, H query heads, G key/value heads, T tokens of a piece or block, M slots, D and E widths.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from sinkctl.cache.evicting import NAME, WHY, EvictingCache, Held
from sinkctl.cache.policies import Evicting, HeavyHitter
from sinkctl.kernels.stream_attention.reference import per_query_head, scores, weights
from sinkctl.model.handler import AttentionCall
from sinkctl.model.positions import rotate

SCORES = 1 << 27  # numbers alive at once, over which rows go one after the other
TAKEN = ("q_BHTD", "k_BGTD", "v_BGTE")


class Piece(NamedTuple):
    """Tokens of every row between which nothing is evicted; None: one token a row."""

    column_BT: Tensor | None  # of a block; past its end: padding
    real_BT: Tensor | None
    before: Tensor | int  # tokens of the block that came before it, [B]
    count: Tensor | int  # its own, [B]
    spans: list[tuple[int, int]]  # both, as the host knows them: where it begins and ends in the block


class EvictingRing(EvictingCache):
    """Holds `rows` streams under an evicting policy, each continued a token a step."""

    policy: Evicting

    _slots: Sequence[Held] = ()
    _rehearses = False

    @property
    def implementations(self) -> dict[str, str]:
        """Names of the attention implementations in use, each with its reason."""
        return {NAME: f"{WHY}, on the device"}

    def attend(self, call: AttentionCall) -> Tensor:
        """Attention of one layer over what it holds and the new tokens, which it takes in."""
        index, (B, H, T, _) = self._index[id(call.module)], call.q_BHTD.shape
        alike = all(rotations is self.rotations[0] for rotations in self.rotations)
        most = min(T, self.policy.every)
        if not alike or call.sink_key is not None or B * H * most * self._slots[index].k.shape[2] > SCORES:
            return super().attend(call)
        if T == 1 and self._real is None:
            return self._taken_in(index, call, Piece(None, None, 0, 1, [(0, 1)] * B)).to(call.q_BHTD.dtype)
        out_BHTE = call.v_BGTE.new_zeros(B, H, T + 1, call.v_BGTE.shape[-1])  # padding goes to the last
        for piece in self._plan(T, call.q_BHTD.device):
            column_BT = piece.column_BT
            own = replace(call, **{name: _at(getattr(call, name), column_BT.clamp(max=T - 1)) for name in TAKEN})
            found = self._taken_in(index, own, piece).to(out_BHTE.dtype)
            out_BHTE.scatter_(2, column_BT[:, None, :, None].expand_as(found), found)
        return out_BHTE[:, :, :T]

    def _plan(self, tokens: int, device: torch.device) -> list[Piece]:
        """A block's columns by piece, row by row: nothing is evicted but at the end of a piece."""
        if device not in self._plans:
            rows = len(self.seen)
            real = self._real or [list(range(tokens))] * rows
            cuts = [list(self._pieces(row, len(own))) for row, own in enumerate(real)]
            widest = max((end - first for own in cuts for first, end in own), default=0)
            plan = []
            for number in range(max(map(len, cuts))):
                spans = [own[number] if number < len(own) else (len(real[row]),) * 2 for row, own in enumerate(cuts)]
                column = torch.full((rows, widest), tokens)
                for row, (first, end) in enumerate(spans):
                    column[row, : end - first] = torch.tensor(real[row][first:end], dtype=torch.int64)
                before, count = torch.tensor([[first, end - first] for first, end in spans]).to(device).T
                plan.append(Piece(column.to(device), (column < tokens).to(device), before, count, spans))
            self._plans[device] = plan
        return self._plans[device]

    def advance(self, tokens: int) -> None:
        """Count the tokens that every layer has attended."""
        one_for_all, self._plans = self._real is None, {}
        super().advance(tokens)
        for t_B in self._t_B.values():
            t_B.add_(tokens) if one_for_all else t_B.copy_(torch.tensor(self.seen))

    def count(self, steps: int) -> None:
        """Count steps that were replayed on the device, clock and all."""
        self.seen = [seen + steps for seen in self.seen]

    def rehearse(self, on: bool) -> None:
        """While on, steps leave nothing that a step done over must not find."""
        self._rehearses = on

    def rewind(self, seen: Sequence[int]) -> None:
        """Count anew from `seen`, after steps that left nothing."""
        self._set(seen)

    def select(self, rows: Tensor) -> None:
        """Make row i continue what was row rows[i]."""
        for slots in self._slots:
            for buffer in vars(slots).values():
                buffer.copy_(buffer[rows.to(buffer.device)])
        self.rotations = [self.rotations[row] for row in rows.tolist()]
        self._set([self.seen[row] for row in rows.tolist()])

    def restart(self) -> None:
        """Forget all that was seen; the memory stays."""
        self._plans: dict[torch.device, list[Piece]] = {}  # of the block under way
        if not self._slots:
            with torch.inference_mode(False):  # what is made inside it cannot be written to outside
                self._slots = [self._made(index) for index in range(len(self._facts))]
                devices = {facts.device for facts in self._facts}
                self._t_B = {
                    device: torch.zeros(len(self.seen), dtype=torch.int64, device=device) for device in devices
                }
        self._set([0] * len(self.seen))

    def restore(self, state: dict[str, Tensor], seen: int | Sequence[int]) -> None:
        """Continue from `state`."""
        super().restore(state, seen)
        self._set(self.seen)

    def _made(self, index: int) -> Held:
        """Empty slots for all that a layer ever holds at once."""
        facts, keep = self._facts[index], self._keeps[index]
        slots = keep.sinks + keep.window + self.policy.every
        shape, like = (len(self.seen), facts.kv_heads, slots), dict(device=facts.device)
        k, v = (torch.zeros(*shape, width, dtype=facts.dtype, **like) for width in (facts.width, facts.value_width))
        return Held(k, v, torch.zeros(shape, dtype=torch.promote_types(facts.dtype, torch.float32), **like))

    def _set(self, seen: Sequence[int]) -> None:
        self.seen = list(seen)
        for t_B in self._t_B.values():
            t_B.copy_(torch.tensor(self.seen))

    def _past(self, index: int, row: int, seen: int) -> Held:
        held = self._many(index, seen)
        return Held(*(buffer[row : row + 1, :, :held] for buffer in vars(self._slots[index]).values()))

    def _put(self, index: int, row: int, held: Held) -> None:
        for buffer, own in zip(vars(self._slots[index]).values(), vars(held).values(), strict=True):
            buffer[row, :, : own.shape[2]] = own[0]

    def _many(self, index: int, seen):
        """How many tokens a layer holds once so many were seen (an int, or a tensor of them), the due ones evicted."""
        keep = self._keeps[index]
        size, rest = keep.sinks + keep.window, seen % self.policy.every if self._shortened(index) else 0
        whole = seen - rest
        return (whole.clamp(max=size) if isinstance(seen, Tensor) else min(whole, size)) + rest

    def _taken_in(self, index: int, call: AttentionCall, piece: Piece) -> Tensor:
        """Attention of a piece, out_BHTE; then its tokens are held, and what is due is evicted."""
        slots, T = self._slots[index], call.q_BHTD.shape[2]
        M, t_B = slots.k.shape[2], self._t_B[call.q_BHTD.device] + piece.before
        place_M = torch.arange(M, device=t_B.device)
        n_B = self._many(index, t_B)  # where the new tokens go
        new_BM = place_M - n_B[:, None]
        own_BM = (new_BM >= 0) & (new_BM < (piece.count if isinstance(piece.count, int) else piece.count[:, None]))
        k, v = (
            torch.where(own_BM[:, None, :, None], _at(new, new_BM.clamp(0, T - 1)), held)
            for new, held in ((call.k_BGTD, slots.k), (call.v_BGTE, slots.v))
        )
        number_BT = n_B[:, None] + torch.arange(T, device=t_B.device)
        q, turned_k = self._turned_by_row(index, call, k, number_BT)
        distance_B1TM = (number_BT[..., None] - place_M)[:, None]
        unseen_B1TM = distance_B1TM < 0
        if not self._shortened(index):
            unseen_B1TM |= distance_B1TM > self._keeps[index].window
        score = scores(q, turned_k, call.scale, call.softcap, call.slope_H, distance_B1TM)
        a_BHTM = weights(score.masked_fill(unseen_B1TM, -torch.inf), call.sink_logit_H)[..., :M]
        out_BHTE = a_BHTM @ per_query_head(v, q).to(a_BHTM.dtype)
        if not self._rehearses:
            if piece.real_BT is not None:
                a_BHTM = a_BHTM * piece.real_BT[:, None, :, None]
            got = slots.got.masked_fill(own_BM[:, None], 0) + a_BHTM.sum(2).unflatten(1, (k.shape[1], -1)).sum(2)
            worth = got if isinstance(self.policy, HeavyHitter) else self._by_chance(index, got, piece)
            place_BGM = self._staying(index, worth, n_B + piece.count, self._many(index, t_B + piece.count))
            for buffer, own in ((slots.k, k), (slots.v, v), (slots.got, got)):
                buffer.copy_(own.gather(2, place_BGM if own.dim() == 3 else place_BGM[..., None].expand_as(own)))
        return out_BHTE

    def _turned_by_row(self, index: int, call: AttentionCall, k_BGMD: Tensor, number_BT: Tensor) -> tuple:
        """Queries and keys at their places in the cache."""
        rotation, (B, H, T, D) = self.rotations[0][index], call.q_BHTD.shape
        table = self._table(rotation, k_BGMD.shape[2], k_BGMD)
        if table is None:
            return call.q_BHTD, k_BGMD
        # A query that is padding may stand past the last slot.
        number = number_BT.flatten().clamp(max=k_BGMD.shape[2] - 1)
        q_1HND = rotate(call.q_BHTD.transpose(0, 1).reshape(1, H, B * T, D), rotation, tuple(x[number] for x in table))
        return q_1HND.view(H, B, T, D).transpose(0, 1), rotate(k_BGMD, rotation, table)

    def _by_chance(self, index: int, got_BGM: Tensor, piece: Piece) -> Tensor:
        """What was drawn for what is between sinks and recent tokens, where something is due."""
        drawn, keep = torch.zeros(got_BGM.shape), self._keeps[index]
        for row, (first, end) in enumerate(piece.spans):
            held = self._many(index, self.seen[row] + first) + end - first
            if self._shortened(index) and held > self._many(index, self.seen[row] + end):
                own = drawn[row : row + 1, :, keep.sinks : held - self.policy.last]
                own.copy_(self._drawn(own, index, self.seen[row] + end))
        return drawn.to(got_BGM.device)

    def _staying(self, index: int, worth_BGM: Tensor, held_B: Tensor, left_B: Tensor) -> Tensor:
        """Which slot each slot takes over from, [B, G, M], where of so many held tokens so many are left."""
        keep, (B, G, M) = self._keeps[index], worth_BGM.shape
        place_M, gone_B1 = torch.arange(M, device=held_B.device), (held_B - left_B)[:, None]
        if not self._shortened(index):
            return (place_M + gone_B1).clamp(max=M - 1)[:, None].expand_as(worth_BGM)
        last_BL = held_B[:, None] + torch.arange(-self.policy.last, 0, device=held_B.device)
        middle_BM = (place_M >= keep.sinks) & (place_M < last_BL[:, :1])
        chosen = worth_BGM.masked_fill(~middle_BM[:, None], -torch.inf).topk(keep.window - self.policy.last).indices
        parts = place_M[: keep.sinks].expand(B, G, -1), chosen.sort().values, last_BL[:, None].expand(-1, G, -1)
        left_BGM = torch.cat([*parts, place_M[keep.sinks + keep.window :].expand(B, G, -1)], dim=-1)
        return torch.where(gone_B1[:, None] > 0, left_BGM, place_M)


def _at(x_BGTD: Tensor, column_BN: Tensor) -> Tensor:
    """Of each row its own columns, [B, G, N, D]."""
    return x_BGTD.gather(2, column_BN[:, None, :, None].expand(-1, x_BGTD.shape[1], -1, x_BGTD.shape[3]))
