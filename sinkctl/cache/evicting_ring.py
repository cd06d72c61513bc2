"""Heavy hitters of generation: single tokens of all rows at once, in memory that stays where it is.

What is held is what `EvictingCache` holds, in buffers made once. How many tokens that is follows from how many were
seen, and which of them go is decided on the device; so a step asks the host nothing, and can be captured and replayed.
Blocks, and whatever a step does not know, go through as they do there.

Shapes: B rows, H query heads, G key/value heads, M slots, D and E widths.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sinkctl.cache.evicting import NAME, WHY, EvictingCache, Held
from sinkctl.cache.policies import HeavyHitter
from sinkctl.kernels.stream_attention.reference import per_query_head, scores, weights
from sinkctl.model.handler import AttentionCall
from sinkctl.model.positions import rotate


class EvictingRing(EvictingCache):
    """Holds `rows` streams under heavy hitters, each continued a token a step."""

    policy: HeavyHitter

    _slots: Sequence[Held] = ()
    _rehearses = False

    @property
    def implementations(self) -> dict[str, str]:
        """Names of the attention implementations in use, each with its reason."""
        return {NAME: f"{WHY}, on the device"}

    def attend(self, call: AttentionCall) -> Tensor:
        """Attention of one layer over what it holds and the new tokens, which it takes in."""
        alike = all(rotations is self.rotations[0] for rotations in self.rotations)
        if call.q_BHTD.shape[2] == 1 and self._real is None and call.sink_key is None and alike:
            return self._step(self._index[id(call.module)], call)
        return super().attend(call)

    def advance(self, tokens: int) -> None:
        """Count the tokens that every layer has attended."""
        one_for_all = self._real is None
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
        slots = keep.sinks + keep.window + (self.policy.every if self._shortened(index) else 1)
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
        keep, every = self._keeps[index], self.policy.every if self._shortened(index) else 1
        size, rest = keep.sinks + keep.window, seen % every
        whole = seen - rest
        return (whole.clamp(max=size) if isinstance(seen, Tensor) else min(whole, size)) + rest

    def _step(self, index: int, call: AttentionCall) -> Tensor:
        """Attention of one token a row; then evicts where it is due."""
        slots, M = self._slots[index], self._slots[index].k.shape[2]
        t_B, place_M = self._t_B[call.q_BHTD.device], torch.arange(M, device=call.q_BHTD.device)
        n_B = self._many(index, t_B)  # where the new token goes
        own_BM = n_B[:, None] == place_M
        held = Held(
            torch.where(own_BM[:, None, :, None], call.k_BGTD, slots.k),
            torch.where(own_BM[:, None, :, None], call.v_BGTE, slots.v),
            slots.got.masked_fill(own_BM[:, None], 0),
        )
        q, k = self._turned_by_row(index, call, held.k, n_B)
        distance_B11M = (n_B[:, None] - place_M)[:, None, None]
        score = scores(q, k, call.scale, call.softcap, call.slope_H, distance_B11M)
        a_BH1M = weights(score.masked_fill(distance_B11M < 0, -torch.inf), call.sink_logit_H)[..., :M]
        out_BH1E = a_BH1M @ per_query_head(held.v, q).to(a_BH1M.dtype)
        held.got += a_BH1M[:, :, 0].unflatten(1, (held.k.shape[1], -1)).sum(2)
        if not self._rehearses:
            place_BGM = self._staying(index, held.got, t_B + 1)
            for buffer, own in zip(vars(slots).values(), vars(held).values(), strict=True):
                wide = place_BGM if own.dim() == 3 else place_BGM[..., None].expand_as(own)
                buffer.copy_(own.gather(2, wide))
        return out_BH1E.to(call.q_BHTD.dtype)

    def _turned_by_row(self, index: int, call: AttentionCall, k_BGMD: Tensor, n_B: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys at their places in the cache."""
        rotation = self.rotations[0][index]
        table = self._table(rotation, k_BGMD.shape[2], k_BGMD)
        if table is None:
            return call.q_BHTD, k_BGMD
        q_1HBD = rotate(call.q_BHTD[:, :, 0].transpose(0, 1)[None], rotation, tuple(x[n_B] for x in table))
        return q_1HBD[0].transpose(0, 1)[:, :, None], rotate(k_BGMD, rotation, table)

    def _staying(self, index: int, got_BGM: Tensor, t_B: Tensor) -> Tensor:
        """Which slot each slot takes over from once so many tokens were seen: its own, where nothing goes."""
        keep, (G, M) = self._keeps[index], got_BGM.shape[1:]
        place_M = torch.arange(M, device=t_B.device)
        n_B = self._many(index, t_B - 1) + 1
        gone_B1 = (n_B - self._many(index, t_B))[:, None]
        if not self._shortened(index):
            return (place_M + gone_B1).clamp(max=M - 1)[:, None].expand_as(got_BGM)
        last_BL = n_B[:, None] + torch.arange(-self.policy.last, 0, device=t_B.device)
        middle_BM = (place_M >= keep.sinks) & (place_M < last_BL[:, :1])
        chosen = got_BGM.masked_fill(~middle_BM[:, None], -torch.inf).topk(keep.window - self.policy.last).indices
        parts = place_M[: keep.sinks].expand(len(t_B), G, -1), chosen.sort().values, last_BL[:, None].expand(-1, G, -1)
        left_BGN = torch.cat([*parts, place_M[keep.sinks + keep.window :].expand(len(t_B), G, -1)], dim=-1)
        return torch.where(gone_B1[:, None] > 0, left_BGN, place_M)
