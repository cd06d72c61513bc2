"""StreamingLLM inside `model.generate()`: a transformers Cache, live inside `with streaming(model) as cache:`.

It stands where transformers' SinkCache stood. That one re-rotated rotated keys a position at a time, which wears them
down, left a new key at its absolute position, and lost its way in long prompts and second turns. B rows, T tokens.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Token
from functools import wraps
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel

from sinkctl.cache.growth import Growth
from sinkctl.cache.policies import Bounded, SinkWindow
from sinkctl.cache.precision.predicted import Watched, settled, watched
from sinkctl.cache.precision.settings import Precision
from sinkctl.cache.redistribution.settings import Redistribution
from sinkctl.cache.ring import RingCache
from sinkctl.cache.select import ring
from sinkctl.errors import ModelError, UsageError
from sinkctl.model.attention import attached, decoder_of
from sinkctl.model.handler import AttentionCall, Handler, handling
from sinkctl.model.lengths import Lengths
from sinkctl.model.load import LoadedModel
from sinkctl.model.recurrent import RecurrentCache
from sinkctl.model.undocumented import cache_given, cached

# Tokens a forward takes, of those that go through the model again.
PIECE = 1024


class StreamingCache(RecurrentCache):
    """Hand it to `generate` (several times, for several turns): keys and values stay in rings of S+W+1 slots.

    Its length counts all tokens ever seen, padding included, so `generate` feeds only what is new. Beam search works;
    what takes tokens back (assisted decoding) cannot, as they may have driven out others.
    """

    def __init__(self, model: PreTrainedModel, lengths: Lengths, policy: Bounded):
        super().__init__(model)
        self.policy = policy
        self._model, self._lengths = model, lengths
        self._ring: RingCache | None = None
        self._growth: Growth | None = None
        self._length, self._under_way, self._again = 0, False, False

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Nothing is kept here: the attention that follows takes keys and values into its ring."""
        if not self._under_way:
            raise ModelError("a streaming cache lives inside its `with streaming(model)`, for that model alone")
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens seen, padding included."""
        return self._length

    def reset(self) -> None:
        """Forget everything: the next call starts a new stream."""
        RecurrentCache.__init__(self, self._model)
        self._ring, self._growth = None, None
        self._length, self._under_way, self._again = 0, False, False

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Make row i continue what was row beam_idx[i]."""
        self._ring.select(beam_idx)
        self._growth.select(beam_idx)
        self.select(beam_idx)

    def crop(self, tokens_to_remove: int) -> None:
        """Refused."""
        raise ModelError("a streaming cache gives no tokens back, as assisted decoding asks; generate without it")

    def begin(self, inputs: Tensor, real_BT: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Make ready for a forward pass; what it gives (as `Growth` does) has to go through the model before."""
        rows, facts = len(real_BT), self._lengths.last.layers
        if self._under_way:
            raise ModelError("a forward pass of this cache did not finish; cache.reset() starts anew")
        if self._ring is None:
            self._ring = ring(facts, self.policy, rows)
            self._growth = Growth(self._ring, self._lengths)
        if len(self._ring.seen) != rows:
            raise ModelError(f"the cache holds {len(self._ring.seen)} rows, not {rows}; cache.reset() starts anew")
        if self.recurrent and self._length and not self._again and not bool(real_BT.all()):
            raise ModelError("rows of a model with recurrent layers can only be continued by texts of one length")
        if not (self._again or self._growth.settled):
            yield from self._taken_again(real_BT.sum(1).tolist())
            self._growth.add(inputs, real_BT)
        self._ring.expect(real_BT.bool())
        self._under_way = True

    def _taken_again(self, tokens: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
        again = self._growth.lengthen(tokens, None if self.recurrent else PIECE)
        if again:
            RecurrentCache.__init__(self, self._model)
            self._length, self._again = 0, True
            yield from again
            self._again = False

    def end(self, tokens: int) -> None:
        """Count what a forward pass took in."""
        self._ring.advance(tokens)
        self._length += tokens
        self._under_way = False

    def watched(self, model: PreTrainedModel) -> list[Watched]:
        """Where the model is looked at for what the ring keeps."""
        precision = self.policy.precision
        return [] if precision is None else watched(model, self._lengths.last.layers, precision, self._tell)

    def _tell(self, told_BT: Tensor) -> None:
        self._ring.tell(told_BT)

    @torch.no_grad()  # a ring that grows a graph would hold all of the past
    def attend(self, call: AttentionCall) -> Tensor:
        """Attention of one layer."""
        return self._ring.attend(call)


class _Attention(Handler):
    def __init__(self, cache: StreamingCache):
        self.attend, self.watched = cache.attend, cache.watched
        self.token: Token | None = None  # a thread that generates does not inherit who answers


@contextmanager
def streaming(
    model: PreTrainedModel | LoadedModel,
    sinks: int = 4,
    window: int | str = "auto",
    precision: Precision | dict | None = None,
    redistribute: Redistribution | dict | None = None,
) -> Iterator[StreamingCache]:
    """Inside `with`, `model.generate(..., past_key_values=cache)` keeps the first `sinks` and the last `window` tokens.

    The query itself is not counted; "auto" fills the model's context. Positions are positions in the cache, prompts of
    any length go in exactly as token by token, and rows padded on the left have sinks of their own. `precision` rounds
    keys and values that are not recent: {"bits": 4}, and what else a recipe says of it; `redistribute` gives part of
    the first token's attention to the others: {"share": 0.5}. On leaving, the model is as it was. Raises UsageError or
    ModelError.
    """
    loaded = model if isinstance(model, LoadedModel) else LoadedModel(model, None, model.config.model_type, "in memory")
    try:
        policy, _ = SinkWindow(sinks=sinks, window=window, precision=precision, redistribute=redistribute).resolve(
            loaded.context
        )
    except ValidationError as error:
        problem = error.errors()[0]
        raise UsageError(
            f"streaming: {'.'.join(map(str, problem['loc']))}: {problem['msg']} (given: {problem['input']!r})"
        ) from error
    if policy.redistribute is not None and not policy.redistribute.settled:
        raise UsageError(
            f"streaming: redistribute.heads: {policy.redistribute.heads} is for texts; give all, or a list"
        )
    (policy,) = settled([policy], loaded)
    cache = StreamingCache(loaded.model, Lengths(loaded, policy.reach + 1), policy)
    decoder, handler = decoder_of(loaded.model), _Attention(cache)
    hooks = [
        decoder.register_forward_pre_hook(_entering(cache, handler), with_kwargs=True),
        decoder.register_forward_hook(_leaving(cache, handler), with_kwargs=True, always_call=True),
    ]
    generation, used = loaded.model.generation_config, loaded.model.generation_config.use_cache
    prepare = vars(loaded.model).get("prepare_inputs_for_generation")
    try:
        generation.use_cache = True  # some checkpoints (MPT) say no
        loaded.model.prepare_inputs_for_generation = _keeping(cache, loaded.model)
        with attached(loaded.model, handler):
            yield cache
    finally:
        generation.use_cache = used
        del loaded.model.prepare_inputs_for_generation
        if prepare is not None:
            loaded.model.prepare_inputs_for_generation = prepare
        for hook in hooks:
            hook.remove()


def _keeping(cache: StreamingCache, model: PreTrainedModel) -> Callable[..., dict[str, Any]]:
    """Prepare inputs as the model does, but keep the cache where Phi-3 drops it, as its rotary frequencies change."""
    own = model.prepare_inputs_for_generation

    @wraps(own)
    def prepare(*args: Any, **kwargs: Any) -> dict[str, Any]:
        inputs = own(*args, **kwargs)
        kept = any(value is cache for value in inputs.values())
        given = any(value is cache for value in kwargs.values())
        return inputs if kept or not given else GenerationMixin.prepare_inputs_for_generation(model, *args, **kwargs)

    return prepare


def _entering(cache: StreamingCache, handler: _Attention):
    """Position 0 for every token, so that keys come un-rotated; the mask says only which tokens are padding."""

    def enter(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        if cache_given(module, args, kwargs) is not cache:
            raise ModelError(
                "inside `with streaming(model) as cache`, call model.generate(..., past_key_values=cache), which the "
                "same model cannot assist"
            )
        if kwargs.get("use_cache") is False:  # `generate` would feed everything again with every token
            raise ModelError("use_cache=False leaves nothing to a cache; leave it out")
        inputs = _inputs(args, kwargs)
        tokens = _tokens(args, kwargs)
        if not tokens.shape[1]:  # a prompt that was fed before
            raise ModelError("the cache has all of these tokens; give what follows them, or call cache.reset() first")
        mask = kwargs.get("attention_mask")
        if mask is not None and mask.ndim != 2:
            raise ModelError("the streaming cache takes attention masks of two dimensions (which tokens are padding)")
        real_BT = torch.ones_like(tokens) if mask is None else mask[:, -tokens.shape[1] :].to(torch.int64)
        for part, real in cache.begin(inputs, real_BT):
            name = "input_ids" if part.dim() == 2 else "inputs_embeds"
            module(**{name: part}, attention_mask=real.to(torch.int64), **cached(module, cache))
        handler.token = handling.set(handler)
        return args, {**kwargs, "position_ids": torch.zeros_like(tokens), "attention_mask": real_BT}

    return enter


def _leaving(cache: StreamingCache, handler: _Attention):
    def leave(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        if handler.token is not None:
            handling.reset(handler.token)
            handler.token = None
        if output is not None:  # the pass came to its end
            cache.end(_tokens(args, kwargs).shape[1])

    return leave


def _inputs(args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """Ids [B, T], or embeddings [B, T, C], whatever the model was given."""
    ids_BT = args[0] if args else kwargs.get("input_ids")
    return ids_BT if ids_BT is not None else kwargs["inputs_embeds"]


def _tokens(args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """Something of shape [B, T] in int64."""
    inputs = _inputs(args, kwargs)
    return inputs if inputs.dim() == 2 else inputs[..., 0].long()
