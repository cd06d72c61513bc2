"""What each policy does with a block of tokens: the NLL of every next token.

A scorer carries its own state; `step` moves it on by one block. T tokens of a block, L tokens of a re-encoded window.
"""

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
from sinkctl.model.attention import attached, decoder_of, hidden_states
from sinkctl.model.compiled import CompiledLayers, blocks_of
from sinkctl.model.head import token_nll
from sinkctl.model.lengths import Lengths, Stage, alike_up_to
from sinkctl.model.load import LoadedModel
from sinkctl.model.probe import LayerFacts, LearnedPositions
from sinkctl.model.recurrent import recurrent_cache
from sinkctl.model.undocumented import cached

# What the names of recurrent states start with, among the tensors that continue a scorer; and the name of a text.
RECURRENT, PAST = "recurrent.", "past"


class Scorer:
    """Scores a stream block by block under one policy."""

    def __init__(self, loaded: LoadedModel, policy: Policy):
        self.loaded, self.policy, self.seen = loaded, policy, 0

    def step(self, ids_T: Tensor, target_T: Tensor) -> np.ndarray:
        """NLL in nats of `target_T` (the token after each of `ids_T`), [T]; NaN where it is not scored."""
        raise NotImplementedError

    def _losses(self, output: ModelOutput, ids_BT: Tensor, target_BT: Tensor) -> Tensor:
        """`token_nll`, where every loss must be a number: NaN would pass for a token that was not scored."""
        nll_BT = token_nll(self.loaded.model, output, ids_BT, target_BT)
        if not bool(torch.isfinite(nll_BT).all()):
            raise ModelError(
                f"{self.loaded.name}: under {self.policy.label} a loss after the first {self.seen:,} tokens is not a "
                f"finite number in {str(self.loaded.dtype).removeprefix('torch.')}; try --dtype float32"
            )
        return nll_BT

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """(plain data, tensors) that continue this scorer."""
        return {"seen": self.seen}, {}

    def restore(self, data: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self.seen = data["seen"]

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys, values and recurrent states held between blocks."""
        return 0

    @property
    def choices(self) -> dict[str, str]:
        """Which implementations ran, and why."""
        return {}

    @property
    def notes(self) -> list[str]:
        """What a reader of its figures has to know."""
        return []

    @property
    def layers(self) -> list[str]:
        """What was done in each layer, one line a kind of layer."""
        return []


class BlockScorer(Scorer):
    """Every policy that keeps keys and values: its rule in blocks, through the stock model with raw keys."""

    def __init__(self, loaded: LoadedModel, policy: Policy, compile_size: int | None = None):
        """Blocks of exactly `compile_size` tokens go through compiled layers; others are not worth a graph."""
        super().__init__(loaded, policy)
        self._lengths = Lengths(loaded, policy.reach + 1 if isinstance(policy, Bounded) else None)
        self._facts = self._lengths.last.layers
        self._begin(self._lengths.of(1))
        self._past_T = torch.zeros(0, dtype=torch.int64)  # all tokens so far, while they may have to go in again
        self._largest = 1  # block so far
        if compile_size is not None and self._recurrent is not None:
            raise ModelError(f"{loaded.name} has recurrent layers, which are not compiled; set compile to auto")
        self._compiled, self._compile_size = CompiledLayers(blocks_of(loaded.model, self._facts)), compile_size

    def _begin(self, stage: Stage) -> None:
        """An empty cache."""
        self._stage = stage
        self._cache = blocks(stage.layers, self.policy)
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
        compiled = self._compiled.active() if ids_BT.shape[1] == self._compile_size else nullcontext()
        with attached(self.loaded.model, self._cache), compiled:
            output = hidden_states(self.loaded.model, ids_BT, past=self._recurrent)
        self._cache.advance(ids_BT.shape[1])
        return output

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        carried = {} if self._recurrent is None else self._recurrent.state()
        past = {PAST: self._past_T} if len(self._past_T) else {}
        tensors = self._cache.state() | {RECURRENT + name: x for name, x in carried.items()}
        return {"seen": self.seen, "largest": self._largest}, tensors | past

    def restore(self, data: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        super().restore(data, tensors)
        self._begin(self._lengths.of(max(1, self.seen)))
        self._largest = data["largest"]
        self._past_T = tensors.get(PAST, self._past_T[:0])
        carried = {name: tensor for name, tensor in tensors.items() if name.startswith(RECURRENT)}
        own = {name: x for name, x in tensors.items() if name not in carried and name != PAST}
        self._cache.restore(own, self.seen)
        if self._recurrent is not None:
            self._recurrent.restore({name.removeprefix(RECURRENT): x for name, x in carried.items()})

    @property
    def cache_bytes(self) -> int:
        return self._cache.bytes_held() + (0 if self._recurrent is None else self._recurrent.bytes_held())

    @property
    def facts(self) -> list[LayerFacts]:
        """The model's softmax attention layers."""
        return self._facts

    @property
    def bytes_a_token(self) -> int:
        """Bytes of keys and values one kept token takes at full precision."""
        width = sum(f.kv_heads * (f.width + f.value_width) for f in self._facts)
        return width * torch.empty(0, dtype=self.loaded.dtype).element_size()

    @property
    def choices(self) -> dict[str, str]:
        found = {"stream_attention": "; ".join(f"{name}: {why}" for name, why in self._cache.implementations.items())}
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
        self._past = DynamicCache(config=loaded.model.config)

    @torch.no_grad()
    def step(self, ids_T: Tensor, target_T: Tensor) -> np.ndarray:
        nll = np.full(len(ids_T), np.nan, np.float32)
        fits = max(0, min(len(ids_T), self.loaded.context - self.seen))
        if fits:
            model = self.loaded.model
            ids_BT, target_BT = (x[None, :fits].to(model.device) for x in (ids_T, target_T))
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


class RecomputeScorer(Scorer):
    """`recompute`: the last L = S+W+1 tokens through the stock model for every scored token, no cache."""

    def __init__(self, loaded: LoadedModel, policy: Recompute, bos: bool):
        super().__init__(loaded, policy)
        self._length = policy.reach + 1
        self._bos = loaded.bos_id if bos else None
        self._recent = torch.zeros(0, dtype=torch.long)
        if loaded.context is not None and self._length > loaded.context:
            raise ModelError(
                f"{policy.label}: windows of {self._length} tokens do not fit the context of {loaded.context}"
            )

    @torch.no_grad()
    def step(self, ids_T: Tensor, target_T: Tensor) -> np.ndarray:
        nll = np.full(len(ids_T), np.nan, np.float32)
        known = torch.cat([self._recent, ids_T])
        first = len(self._recent)  # index in `known` of the block's first token
        growing, done = max(0, min(len(ids_T), self._length - self.seen)), 0
        # Windows that still start at the text's start: one causal pass serves all that are turned alike.
        while done < growing:
            alike = alike_up_to(self.loaded.model.config, first + done + 1)
            end = growing if alike is None else min(growing, alike - first)
            nll[done:end] = self._after(known[None, : first + end], target_T[None, done:end])[0]
            done = end
        every = self.policy.every
        scored = [i for i in range(len(ids_T)) if (self.seen + i) % every == 0]
        nll[sorted(set(range(growing)) - set(scored))] = np.nan
        full = [i for i in scored if i >= growing]
        rows = max(1, (8192 if self.loaded.device.type == "cpu" else 1 << 17) // self._length)
        for start in range(0, len(full), rows):
            batch = full[start : start + rows]
            window_BL = torch.stack([known[first + i + 1 - self._length : first + i + 1] for i in batch])
            if self._bos is not None:
                window_BL[:, 0] = self._bos
            nll[batch] = self._after(window_BL, target_T[batch, None])[:, 0]
        self._recent = known[-self._length :].clone()
        self.seen += len(ids_T)
        return nll

    def _after(self, ids_BL: Tensor, target_BT: Tensor) -> np.ndarray:
        """NLL of the targets after the last tokens of each row."""
        model = self.loaded.model
        ids_BL, target_BT = ids_BL.to(model.device), target_BT.to(model.device)
        output = decoder_of(model)(input_ids=ids_BL, attention_mask=torch.ones_like(ids_BL), use_cache=False)
        last = target_BT.shape[1]
        output.last_hidden_state = output.last_hidden_state[:, -last:]
        return self._losses(output, ids_BL[:, -last:], target_BT).cpu().numpy()

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return {"seen": self.seen}, {"recent": self._recent}

    def restore(self, data: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        super().restore(data, tensors)
        self._recent = tensors["recent"].cpu()

    @property
    def layers(self) -> list[str]:
        in_front = "BOS in place of the first" if self._bos is not None else "no BOS in front"
        return [f"{self.policy.label}: the stock model over {self._length} tokens for every scored one, {in_front}"]


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
