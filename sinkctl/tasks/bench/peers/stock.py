"""Transformers alone: pieces of a long text, its growing cache, its static cache. Of our code only what a
version calls the cache is imported.

B rows, L tokens of a piece, T tokens of a prompt, V vocabulary.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import Cache, DynamicCache, PreTrainedModel, StaticCache

from sinkctl.model.undocumented import cached

# Logits alive at once (tokens × vocabulary): 1 GiB in bfloat16, and twice that in float32.
LOGITS = 1 << 29


@torch.no_grad()
def piece_losses(model: PreTrainedModel, ids_BL: Tensor, target_BL: Tensor) -> Tensor:
    """NLL in nats of every target, the token after each of `ids_BL`, [B, L]; a piece of the text sees itself alone."""
    rows = max(1, LOGITS // (ids_BL.shape[1] * model.get_input_embeddings().num_embeddings))
    losses = []
    for ids, target in zip(ids_BL.split(rows), target_BL.split(rows), strict=True):
        logits_BLV = model(input_ids=ids, use_cache=False).logits
        losses.append(cross_entropy(logits_BLV.float().flatten(0, 1), target.flatten(), reduction="none"))
    return torch.cat(losses).view_as(target_BL)


class GrowingCache:
    """Greedy steps after a prompt with transformers' own cache, which every run finds as the prompt left it."""

    def __init__(self, model: PreTrainedModel, ids_BT: Tensor):
        self._model, self._past = model, DynamicCache(config=model.config)
        self._cached = cached(model, self._past)
        self._next_B1 = _prefilled(model, self._past, ids_BT)
        # A step makes new tensors and leaves the old ones as they are.
        self._held = [dict(vars(layer)) for layer in self._past.layers]
        self.bytes_held = _bytes_held(self._past)

    @torch.no_grad()
    def run(self, steps: int) -> Tensor:
        """The ids chosen, [B, steps]."""
        for layer, held in zip(self._past.layers, self._held, strict=True):
            vars(layer).update(held)
        ids_B1, chosen = self._next_B1, []
        for _ in range(steps):
            logits_B1V = self._model(input_ids=ids_B1, **self._cached).logits
            ids_B1 = logits_B1V[:, -1:].argmax(-1)
            chosen.append(ids_B1)
        return torch.cat(chosen, dim=1)


class CompiledStaticCache:
    """The same with transformers' static cache of T + `steps` places, compiled on CUDA as `generate` compiles it."""

    def __init__(self, model: PreTrainedModel, ids_BT: Tensor, steps: int):
        self._past, self._steps = StaticCache(config=model.config, max_cache_len=ids_BT.shape[1] + steps), steps
        self._cached = cached(model, self._past)
        self._next_B1 = _prefilled(model, self._past, ids_BT)
        self._lengths = [
            {name: value.clone() if isinstance(value, Tensor) else value for name, value in vars(layer).items()
             if name.startswith("cumulative_length")}
            for layer in self._past.layers
        ]  # fmt: skip
        self._compiled = model.device.type == "cuda"
        self._forward = torch.compile(model.__call__, mode="reduce-overhead") if self._compiled else model
        self.bytes_held = _bytes_held(self._past)

    @torch.no_grad()
    def run(self) -> Tensor:
        """The ids chosen, [B, steps]."""
        self._rewind()
        ids_B1, chosen = self._next_B1, []
        for _ in range(self._steps):
            if self._compiled:
                torch.compiler.cudagraph_mark_step_begin()
            logits_B1V = self._forward(input_ids=ids_B1, **self._cached).logits
            ids_B1 = logits_B1V[:, -1:].argmax(-1)
            chosen.append(ids_B1)
        return torch.cat(chosen, dim=1)

    def _rewind(self) -> None:
        """Put lengths back; in place, as a recorded graph knows them by their addresses.

        What a full sliding layer dropped stays dropped: the ids are then others, the work is the same.
        """
        for layer, lengths in zip(self._past.layers, self._lengths, strict=True):
            for name, value in lengths.items():
                if isinstance(value, Tensor):
                    getattr(layer, name).copy_(value)
                else:
                    setattr(layer, name, value)


@torch.no_grad()
def _prefilled(model: PreTrainedModel, past: Cache, ids_BT: Tensor) -> Tensor:
    """Take a prompt into a cache; returns the likeliest next ids, [B, 1]."""
    for part in ids_BT.split(max(128, 4096 // len(ids_BT)), dim=1):
        logits_BTV = model(input_ids=part, **cached(model, past)).logits
    return logits_BTV[:, -1:].argmax(-1)


def _bytes_held(past: Cache) -> int:
    held = (getattr(layer, name, None) for layer in past.layers for name in ("keys", "values"))
    return sum(tensor.nbytes for tensor in held if tensor is not None)
