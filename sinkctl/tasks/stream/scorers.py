"""What each policy does with a block of tokens: the NLL of every next token.

A scorer carries its own state; `step` moves it on by one block. T tokens of a block, B whole texts side by side.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.utils import ModelOutput

from sinkctl.cache.layers import layer_lines
from sinkctl.cache.policies import Bounded, Dense, Policy, Recompute
from sinkctl.cache.select import blocks
from sinkctl.errors import ModelError
from sinkctl.model.attention import Attachment, decoder_of, hidden_states
from sinkctl.model.block_layers import block_layers
from sinkctl.model.compiled import CompiledLayers, blocks_of
from sinkctl.model.lengths import Lengths, Stage
from sinkctl.model.load import LoadedModel
from sinkctl.model.parallel import own_state, whole_state
from sinkctl.model.probe import LayerFacts, LearnedPositions
from sinkctl.model.recurrent import recurrent_cache
from sinkctl.model.undocumented import cached
from sinkctl.tasks.stream.recompute import RecomputeScorer
from sinkctl.tasks.stream.scorer import Scorer

# What the names of recurrent states start with, among the tensors that continue a scorer; and the name of a text.
RECURRENT, PAST = "recurrent.", "past"


class BlockScorer(Scorer):
    """Every policy that keeps keys and values: its rule in blocks, through the stock model with raw keys."""

    def __init__(self, loaded: LoadedModel, policy: Policy, compile_size: int | None = None, stock: bool = False):
        """Blocks of exactly `compile_size` tokens go through compiled layers; others are not worth a graph.

        Where nothing is to be compiled, layers that have a form of their own for blocks run so, unless they are to stay
        `stock`: numbers that are held against each other in their last bits come from layers that run alike.
        """
        super().__init__(loaded, policy)
        self._lengths = Lengths(loaded, policy.reach + 1 if isinstance(policy, Bounded) else None)
        self._facts = self._lengths.last.layers
        self._largest = 1  # block so far
        self.begin()
        if compile_size is not None and self._recurrent is not None:
            raise ModelError(f"{loaded.name} has recurrent layers, which are not compiled; set compile to auto")
        watched = bool(self._cache.watched(loaded.model))
        assert compile_size is None or not watched, "the recipe was checked"
        layers = blocks_of(loaded.model, self._facts)
        self._own, self._own_why = (
            (None, "") if compile_size is not None or stock or watched else block_layers(loaded.model, layers)
        )
        self._compiled, self._compile_size = CompiledLayers(layers), compile_size

    def begin(self) -> None:
        super().begin()
        self._begin(self._lengths.of(1))
        self._past_T = torch.zeros(0, dtype=torch.int64)  # all tokens so far, while they may have to go in again

    def _begin(self, stage: Stage, rows: int = 1) -> None:
        """An empty cache."""
        self._stage = stage
        self._cache = blocks(stage.layers, self.policy, rows)
        self._attachment = Attachment(self.loaded.model, self._cache)  # once: it looks through all of the model
        self._recurrent = recurrent_cache(self.loaded.model)

    @torch.no_grad()
    def step(self, ids_T: Tensor, target_T: Tensor | None) -> np.ndarray:
        """Without targets nothing is scored: NaN."""
        self._largest, losses = max(self._largest, len(ids_T)), []
        while len(ids_T):
            if self.seen == self._stage.end:
                self._begin(self._lengths.of(self.seen + 1))
                for part_T in self._past_T.split(self._largest):
                    self._take_in(part_T[None].to(self.loaded.device))
            fits = len(ids_T) if self._stage.end is None else self._stage.end - self.seen
            losses.append(self._scored(ids_T[:fits], None if target_T is None else target_T[:fits]))
            ids_T, target_T = ids_T[fits:], None if target_T is None else target_T[fits:]
        return np.concatenate(losses)

    @property
    def longest_beside(self) -> int | None:
        return self._lengths.of(1).end

    @torch.no_grad()
    def texts(self, ids_BT: Tensor, target_BT: Tensor, tokens: Sequence[int]) -> list[np.ndarray]:
        """In one forward pass, without a mask: padding stands behind its text, no token of which sees it.

        A rounded cache has room for all it may hold from the start, so there they come one by one.
        """
        if self.policy.precision is not None:
            return super().texts(ids_BT, target_BT, tokens)
        self.begin()
        self._begin(self._stage, len(ids_BT))
        ids_BT, target_BT = (x.to(self.loaded.device) for x in (ids_BT, target_BT))
        real_BT = torch.arange(ids_BT.shape[1]) < torch.tensor(tokens)[:, None]
        nll_BT = self._losses(self._take_in(ids_BT), ids_BT, target_BT, real_BT).cpu().numpy()
        self.seen = max(tokens)
        return [nll_T[:count] for nll_T, count in zip(nll_BT, tokens, strict=True)]

    def stand_at(self, seen: int) -> None:
        super().stand_at(seen)
        self._begin(self._lengths.of(max(1, seen)))

    def _scored(self, ids_T: Tensor, target_T: Tensor | None) -> np.ndarray:
        """`step` within one stage."""
        ids_BT, losses = ids_T[None].to(self.loaded.device), np.full(len(ids_T), np.nan, np.float32)
        output = self._take_in(ids_BT)
        if target_T is not None:
            losses = self._losses(output, ids_BT, target_T[None].to(self.loaded.device))[0].cpu().numpy()
        self.seen += len(ids_T)
        self._past_T = self._past_T[:0] if self._stage.end is None else torch.cat([self._past_T, ids_T.cpu()])
        return losses

    def _take_in(self, ids_BT: Tensor) -> ModelOutput:
        """Run the decoder over a block, and move the cache on."""
        layers = self._own or (self._compiled if ids_BT.shape[1] == self._compile_size else None)
        with self._attachment.active(), nullcontext() if layers is None else layers.active():
            output = hidden_states(self.loaded.model, ids_BT, past=self._recurrent)
        self._cache.advance(ids_BT.shape[1])
        return output

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        carried = {} if self._recurrent is None else self._recurrent.state()
        past = {PAST: self._past_T} if len(self._past_T) else {}
        cache = whole_state(self._cache.state(), self.loaded.sharers)
        tensors = cache | {RECURRENT + name: x for name, x in carried.items()}
        return {"seen": self.seen, "largest": self._largest}, tensors | past

    def restore(self, data: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        super().restore(data, tensors)
        self._begin(self._lengths.of(max(1, self.seen)))
        self._largest = data["largest"]
        self._past_T = tensors.get(PAST, self._past_T[:0])
        carried = {name: tensor for name, tensor in tensors.items() if name.startswith(RECURRENT)}
        own = {name: x for name, x in tensors.items() if name not in carried and name != PAST}
        self._cache.restore(own_state(own, self.loaded.sharers), self.seen)
        if self._recurrent is not None:
            self._recurrent.restore({name.removeprefix(RECURRENT): x for name, x in carried.items()})

    @property
    def cache_bytes(self) -> int:
        held = self._cache.bytes_held() * self.loaded.sharers
        return held + (0 if self._recurrent is None else self._recurrent.bytes_held())

    @property
    def facts(self) -> list[LayerFacts]:
        """The model's softmax attention layers."""
        return self._facts

    @property
    def bytes_a_token(self) -> int:
        """Bytes of keys and values one kept token takes at full precision."""
        width = sum(f.kv_heads * (f.width + f.value_width) for f in self._facts) * self.loaded.sharers
        return width * torch.empty(0, dtype=self.loaded.dtype).element_size()

    @property
    def choices(self) -> dict[str, str]:
        found = {"stream_attention": "; ".join(f"{name}: {why}" for name, why in self._cache.implementations.items())}
        if self._own is not None:
            found["layers"] = self._own_why
        return found | self._lengths.choice(self.policy.label, self.seen)

    @property
    def notes(self) -> list[str]:
        return self._lengths.notes(self.policy.label, self.seen)

    @property
    def layers(self) -> list[str]:
        carried = [] if self._recurrent is None else self._recurrent.recurrent
        return layer_lines(self.policy, self._stage.layers, carried)


class LearnedDenseScorer(Scorer):
    """`dense` for models with learned positions: the stock model and its own cache, up to its context."""

    def __init__(self, loaded: LoadedModel, policy: Policy):
        super().__init__(loaded, policy)
        self.begin()

    def begin(self) -> None:
        super().begin()
        self._past = DynamicCache(config=self.loaded.model.config)

    @torch.no_grad()
    def step(self, ids_T: Tensor, target_T: Tensor) -> np.ndarray:
        nll = np.full(len(ids_T), np.nan, np.float32)
        fits = max(0, min(len(ids_T), self.loaded.context - self.seen))
        if fits:
            model = self.loaded.model
            ids_BT, target_BT = (x[None, :fits].to(self.loaded.device) for x in (ids_T, target_T))
            decoder = decoder_of(model)
            output = decoder(input_ids=ids_BT, **cached(decoder, self._past))
            nll[:fits] = self._losses(output, ids_BT, target_BT)[0].cpu().numpy()
        self.seen += len(ids_T)
        return nll

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        layers = enumerate(self._past.layers)
        return {"seen": self.seen}, {f"{i}.{n}": t for i, x in layers for n, t in (("k", x.keys), ("v", x.values))}

    def restore(self, data: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        super().restore(data, tensors)
        for index in range(len(tensors) // 2):
            k, v = (tensors[f"{index}.{part}"].to(self.loaded.device) for part in "kv")
            self._past.update(k, v, index)

    @property
    def cache_bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.state()[1].values())


def scorer_for(loaded: LoadedModel, policy: Policy, bos: bool, compile_size: int | None = None) -> Scorer:
    """The scorer of a resolved policy; ModelError names what the model cannot do and what to use instead."""
    if isinstance(policy, Recompute):
        return RecomputeScorer(loaded, policy, bos)
    try:
        return BlockScorer(loaded, policy, compile_size)
    except LearnedPositions as error:
        if policy.precision is not None:
            raise ModelError(f"{error}; its keys and values cannot be rounded, so leave --kv out") from error
        if policy.redistribute is not None:
            raise ModelError(
                f"{error}; no attention of it can be redistributed, so leave --redistribute out"
            ) from error
        if isinstance(policy, Dense):
            return LearnedDenseScorer(loaded, policy)
        raise ModelError(f"{error}; use --policy dense (up to its context) or --policy recompute") from error
