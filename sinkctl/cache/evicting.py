"""The KV cache of policies that choose what to evict, by attention got or by chance, each key/value head its own.

Keys are carried un-rotated, in the order of the stream. A query meets them at their distance in the cache: the key at
rank r of n kept ones stands at position r, the queries after them at n, n+1, … After every `every` tokens, counted
from the stream's beginning, each head drops what is too much, so nothing depends on how a text is cut into blocks.

Shapes: B rows, H query heads, G key/value heads, T tokens, N kept ones, S = N + T, D and E widths.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from zlib import crc32

import torch
from torch import Tensor

from sinkctl.cache.layers import kept_by
from sinkctl.cache.policies import Evicting, HeavyHitter, Keep, PerLayer, Snap
from sinkctl.errors import ModelError
from sinkctl.kernels.stream_attention.reference import per_query_head, scores, weights
from sinkctl.model.handler import AttentionCall, Handler, places
from sinkctl.model.positions import Rotation, rotate
from sinkctl.model.probe import LayerFacts

NAME, WHY = "plain torch", "what each key receives decides what is evicted"


@dataclass
class Held:
    """What one layer holds of one row."""

    k: Tensor  # [1, G, N, D], un-rotated
    v: Tensor  # [1, G, N, E]
    got: Tensor  # [1, G, N]: attention received, summed over queries and the group's query heads


class EvictingCache(Handler):
    """Holds `rows` streams under an evicting policy, and answers the attention layers of an attached model."""

    def __init__(self, layers: Sequence[LayerFacts], policy: Evicting | Snap | PerLayer, rows: int = 1):
        """Layers trained on a shorter window than the policy's keep that, as they were trained."""
        self.policy, self.seen = policy, [0] * rows
        for facts in layers:
            if facts.weighed and not isinstance(policy, PerLayer):
                raise ModelError(f"{policy.kind} goes by softmax weights, and {facts.sink} has none; take sink_window")
        self._facts = list(layers)
        self._keeps = kept_by(policy, layers)
        self._index = {id(facts.module): index for index, facts in enumerate(layers)}
        self.rotations = [[facts.rotation for facts in layers]] * rows  # by row, by layer
        self._real: list[list[int]] | None = None  # of the next block, each row's tokens; None: all of them
        self._tables: dict[tuple, tuple[Tensor, Tensor]] = {}
        self.restart()

    @property
    def implementations(self) -> dict[str, str]:
        """Names of the attention implementations in use, each with its reason."""
        return {NAME: WHY}

    block_implementations = implementations

    def expect(self, real_BT: Tensor | None) -> None:
        """Say which tokens of the next block are padding, which must never be kept or seen."""
        self._real = places(real_BT)

    def attend(self, call: AttentionCall) -> Tensor:
        """Attention of one layer over what it holds and the new tokens, which it takes in."""
        index, (B, H, T, _) = self._index[id(call.module)], call.q_BHTD.shape
        out_BHTE = call.q_BHTD.new_zeros(B, H, T, call.v_BGTE.shape[-1])
        for row in range(B):
            own, columns = call.rows(slice(row, row + 1)), slice(None)
            if self._real is not None:
                columns = torch.tensor(self._real[row], dtype=torch.int64, device=out_BHTE.device)
                own = own.columns(columns)
            parts = [
                self._piece(index, row, own.tokens(first, end), self.seen[row] + end)
                for first, end in self._pieces(row, own.q_BHTD.shape[2])
            ]
            if parts:
                out_BHTE[row, :, columns] = torch.cat(parts, dim=2)[0]
        return out_BHTE

    def advance(self, tokens: int) -> None:
        """Count the tokens that every layer has attended."""
        self.seen = [
            seen + (tokens if self._real is None else len(self._real[row])) for row, seen in enumerate(self.seen)
        ]
        self._real = None

    def select(self, rows: Tensor) -> None:
        """Make row i continue what was row rows[i]."""
        chosen = rows.tolist()
        self._held = [[held[row] for row in chosen] for held in self._held]
        self.rotations = [self.rotations[row] for row in chosen]
        self.seen = [self.seen[row] for row in chosen]

    def restart(self) -> None:
        """Forget all that was seen."""
        rows = len(self.seen)
        self.seen = [0] * rows
        self._held = [[_empty(facts)] * rows for facts in self._facts]

    def state(self) -> dict[str, Tensor]:
        """What continues the streams, with `seen`: by layer, row and part."""
        return {
            f"{index}.{row}.{name}": tensor
            for index, row in self._each()
            for name, tensor in vars(self._past(index, row, self.seen[row])).items()
        }

    def restore(self, state: dict[str, Tensor], seen: int | Sequence[int]) -> None:
        """Continue from `state`."""
        self.seen = [seen] if isinstance(seen, int) else list(seen)
        for index, row in self._each():
            tensors = (state[f"{index}.{row}.{name}"] for name in ("k", "v", "got"))
            self._put(index, row, Held(*(tensor.to(self._facts[index].device) for tensor in tensors)))

    def bytes_held(self) -> int:
        """Size of keys, values, and what decides about them."""
        tensors = EvictingCache.state(self).values()
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def _each(self) -> Iterator[tuple[int, int]]:
        """Every layer and row."""
        return product(range(len(self._facts)), range(len(self.seen)))

    def _past(self, index: int, row: int, seen: int) -> Held:
        """What a layer holds of a row that has seen so many tokens."""
        return self._held[index][row]

    def _put(self, index: int, row: int, held: Held) -> None:
        """Let a layer hold that of a row."""
        self._held[index][row] = held

    def _pieces(self, row: int, tokens: int) -> Iterator[tuple[int, int]]:
        """Cuts of the next tokens, each ending where something is evicted, or with them."""
        first, seen = 0, self.seen[row]
        while first < tokens:
            end = min(tokens, first + self.policy.every - (seen + first) % self.policy.every)
            yield first, end
            first = end

    def _piece(self, index: int, row: int, call: AttentionCall, seen: int) -> Tensor:
        """Attention of tokens between which nothing is evicted; `seen` counts the stream with them."""
        past, nothing = (
            self._past(index, row, seen - call.q_BHTD.shape[2]),
            call.k_BGTD.new_zeros(call.k_BGTD.shape[:3]),
        )
        new = Held(call.k_BGTD, call.v_BGTE, nothing.to(past.got.dtype))
        held = Held(*(torch.cat(pair, dim=2) for pair in zip(vars(past).values(), vars(new).values(), strict=True)))
        out_BHTE, held.got = self._answer(index, row, call, held, seen)
        self._put(index, row, self._kept(held, index, row, seen))
        return out_BHTE.to(call.q_BHTD.dtype)

    def _answer(self, index: int, row: int, call: AttentionCall, held: Held, seen: int) -> tuple[Tensor, Tensor]:
        """Attention of the last of the held tokens, and what each has got with theirs."""
        q, k = self._turned(index, row, call, held.k)
        S = k.shape[2]
        a_BHTS = _weights(call, q, k, None if self._shortened(index) else self._keeps[index].window)
        out_BHTE = a_BHTS[..., :S] @ per_query_head(held.v, q).to(a_BHTS.dtype)
        if call.sink_key is not None and call.sink_key.v_GE is not None:
            out_BHTE += a_BHTS[..., S:] * per_query_head(call.sink_key.v_GE[None, :, None], q).to(a_BHTS.dtype)
        return out_BHTE, held.got + a_BHTS[..., :S].sum(2).unflatten(1, (k.shape[1], -1)).sum(2)

    def _turned(self, index: int, row: int, call: AttentionCall, k_BGSD: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys at their places in the cache."""
        T, S = call.q_BHTD.shape[2], k_BGSD.shape[2]
        rotation = self.rotations[row][index]
        table = self._table(rotation, S, k_BGSD)
        last = table and tuple(x[S - T :] for x in table)
        return rotate(call.q_BHTD, rotation, last), rotate(k_BGSD, rotation, table)

    def _shortened(self, index: int) -> bool:
        """Whether the policy cuts this layer, and not its own window."""
        return self._keeps[index] != Keep(0, self._facts[index].window)

    def _kept(self, held: Held, index: int, row: int, seen: int) -> Held:
        """After the eviction that is due once `seen` tokens went by, if one is."""
        S, keep = held.k.shape[2], self._keeps[index]
        surplus = 0 if keep.window is None else S - keep.sinks - keep.window
        if not self._shortened(index):
            return held if surplus <= 0 else Held(*(x[:, :, surplus:] for x in vars(held).values()))
        if not self._due(row, seen):
            return held
        if surplus <= 0:
            return self._left(held)
        middle = slice(keep.sinks, S - self.policy.last)
        got_BGM = held.got[:, :, middle]
        chosen_BGM = self._best(got_BGM, got_BGM.shape[-1] - surplus, index, seen).sort(dim=-1).values + keep.sinks
        place_BGS = torch.arange(S, device=chosen_BGM.device).expand(*chosen_BGM.shape[:2], -1)
        place_BGN = torch.cat([place_BGS[..., : keep.sinks], chosen_BGM, place_BGS[..., middle.stop :]], dim=-1)
        k, v = (x.gather(2, place_BGN[..., None].expand(-1, -1, -1, x.shape[-1])) for x in (held.k, held.v))
        return self._left(Held(k, v, held.got.gather(2, place_BGN)))

    def _due(self, row: int, seen: int) -> bool:
        """Whether something is evicted after so many tokens of a row."""
        return seen % self.policy.every == 0

    def _best(self, got_BGM: Tensor, kept: int, index: int, seen: int) -> Tensor:
        """Places of those that are kept, by the attention they got."""
        if isinstance(self.policy, HeavyHitter):
            return got_BGM.topk(kept, dim=-1).indices
        return self._drawn(got_BGM, index, seen).to(got_BGM.device).topk(kept, dim=-1).indices

    def _drawn(self, like: Tensor, index: int, seen: int) -> Tensor:
        """What chance goes by, once a layer's row has seen so many tokens."""
        own = f"{self.policy.seed} {index} {seen}"  # of which torch takes 32 bits
        return torch.rand(like.shape, generator=torch.Generator().manual_seed(crc32(own.encode())))

    def _left(self, held: Held) -> Held:
        """What goes on after an eviction was due."""
        return held

    def _table(self, rotation: Rotation | None, tokens: int, like: Tensor) -> tuple[Tensor, Tensor] | None:
        """Cosines and sines of positions 0 … `tokens`−1."""
        if rotation is None:
            return None
        key = (id(rotation), like.device)
        if key not in self._tables or len(self._tables[key][0]) < tokens:
            self._tables[key] = rotation.table(range(1 << (tokens - 1).bit_length()), like)  # seldom, as it grows
        return tuple(x[:tokens] for x in self._tables[key])


def _empty(facts: LayerFacts) -> Held:
    like = dict(device=facts.device, dtype=facts.dtype)
    precise = torch.promote_types(facts.dtype, torch.float32)
    k, v = (torch.zeros(1, facts.kv_heads, 0, width, **like) for width in (facts.width, facts.value_width))
    return Held(k, v, torch.zeros(1, facts.kv_heads, 0, device=facts.device, dtype=precise))


def _weights(call: AttentionCall, q_BHTD: Tensor, k_BGSD: Tensor, window: int | None) -> Tensor:
    """Softmax weights [B, H, T, S], and behind them that of the layer's own sink, if it has one."""
    T, S = q_BHTD.shape[2], k_BGSD.shape[2]
    place_S = torch.arange(S, device=q_BHTD.device)
    distance_TS = place_S[S - T :, None] - place_S
    seen_TS = distance_TS >= 0 if window is None else (distance_TS >= 0) & (distance_TS <= window)
    score = scores(q_BHTD, k_BGSD, call.scale, call.softcap, call.slope_H, distance_TS)
    logit = call.sink_logit_H if call.sink_key is None else call.sink_key.logit_BHT
    return weights(score.masked_fill(~seen_TS, -torch.inf), logit)
