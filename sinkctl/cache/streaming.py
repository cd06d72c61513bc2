"""StreamingLLM inside `model.generate()`: a transformers Cache, live inside `with streaming(model) as cache:`.

It stands where transformers' SinkCache stood. That one re-rotated rotated keys a position at a time, which wears them
down, left a new key at its absolute position, and lost its way in long prompts and second turns. B rows, T tokens.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Token
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from transformers import PreTrainedModel

from sinkctl.cache.policies import Bounded, SinkWindow
from sinkctl.cache.ring import RingCache
from sinkctl.errors import ModelError, UsageError
from sinkctl.model.attention import attached, decoder_of
from sinkctl.model.handler import AttentionCall, Handler, handling
from sinkctl.model.load import LoadedModel
from sinkctl.model.probe import LayerFacts
from sinkctl.model.recurrent import RecurrentCache
from sinkctl.model.undocumented import cache_given


class StreamingCache(RecurrentCache):
    """Hand it to `generate` (several times, for several turns): keys and values stay in rings of S+W+1 slots.

    Its length counts all tokens ever seen, padding included, so `generate` feeds only what is new. Beam search works;
    what takes tokens back (assisted decoding) cannot, as they may have driven out others.
    """

    def __init__(self, model: PreTrainedModel, layers: list[LayerFacts], policy: Bounded):
        super().__init__(model)
        self.policy = policy
        self._model, self._facts = model, layers
        self._ring: RingCache | None = None
        self._length, self._under_way = 0, False

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
        self._ring, self._length, self._under_way = None, 0, False

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Make row i continue what was row beam_idx[i]."""
        self._ring.select(beam_idx)
        self.select(beam_idx)

    def crop(self, tokens_to_remove: int) -> None:
        """Refused."""
        raise ModelError("a streaming cache gives no tokens back, as assisted decoding asks; generate without it")

    def begin(self, rows: int, real_BT: Tensor) -> None:
        """Make ready for a forward pass."""
        if self._under_way:
            raise ModelError("a forward pass of this cache did not finish; cache.reset() starts anew")
        if self._ring is None:
            self._ring = RingCache(self._facts, [self.policy.keep(f.window) for f in self._facts], rows)
        if len(self._ring.seen) != rows:
            raise ModelError(f"the cache holds {len(self._ring.seen)} rows, not {rows}; cache.reset() starts anew")
        if self.recurrent and self._length and not bool(real_BT.all()):
            raise ModelError("rows of a model with recurrent layers can only be continued by texts of one length")
        self._ring.expect(real_BT.bool())
        self._under_way = True

    def end(self, tokens: int) -> None:
        """Count what a forward pass took in."""
        self._ring.advance(tokens)
        self._length += tokens
        self._under_way = False

    @torch.no_grad()  # a ring that grows a graph would hold all of the past
    def attend(self, call: AttentionCall) -> Tensor:
        """Attention of one layer."""
        return self._ring.attend(call)


class _Attention(Handler):
    def __init__(self, cache: StreamingCache):
        self.attend = cache.attend
        self.token: Token | None = None  # a thread that generates does not inherit who answers


@contextmanager
def streaming(
    model: PreTrainedModel | LoadedModel, sinks: int = 4, window: int | str = "auto"
) -> Iterator[StreamingCache]:
    """Inside `with`, `model.generate(..., past_key_values=cache)` keeps the first `sinks` and the last `window` tokens.

    The query itself is not counted; "auto" fills the model's context. Positions are positions in the cache, prompts of
    any length go in exactly as token by token, and rows padded on the left have sinks of their own. On leaving, the
    model is as it was. Raises UsageError or ModelError.
    """
    loaded = model if isinstance(model, LoadedModel) else LoadedModel(model, None, model.config.model_type, "in memory")
    try:
        policy, _ = SinkWindow(sinks=sinks, window=window).resolve(loaded.context)
    except ValidationError as error:
        problem = error.errors()[0]
        raise UsageError(f"streaming: {problem['loc'][0]}: {problem['msg']} (given: {problem['input']!r})") from error
    cache = StreamingCache(loaded.model, loaded.layers(policy.reach), policy)
    decoder, handler = decoder_of(loaded.model), _Attention(cache)
    hooks = [
        decoder.register_forward_pre_hook(_entering(cache, handler), with_kwargs=True),
        decoder.register_forward_hook(_leaving(cache, handler), with_kwargs=True, always_call=True),
    ]
    generation, used = loaded.model.generation_config, loaded.model.generation_config.use_cache
    try:
        generation.use_cache = True  # some checkpoints (MPT) say no
        with attached(loaded.model, handler):
            yield cache
    finally:
        generation.use_cache = used
        for hook in hooks:
            hook.remove()


def _entering(cache: StreamingCache, handler: _Attention):
    """Position 0 for every token, so that keys come un-rotated; the mask says only which tokens are padding."""

    def enter(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        if cache_given(module, args, kwargs) is not cache:
            raise ModelError("inside `with streaming(model) as cache`, call model.generate(..., past_key_values=cache)")
        if kwargs.get("use_cache") is False:  # `generate` would feed everything again with every token
            raise ModelError("use_cache=False leaves nothing to a cache; leave it out")
        tokens = _tokens(args, kwargs)
        mask = kwargs.get("attention_mask")
        if mask is not None and mask.ndim != 2:
            raise ModelError("the streaming cache takes attention masks of two dimensions (which tokens are padding)")
        real_BT = torch.ones_like(tokens) if mask is None else mask[:, -tokens.shape[1] :].to(torch.int64)
        cache.begin(len(tokens), real_BT)
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


def _tokens(args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """Something of shape [B, T] in int64, whatever the model was given."""
    ids_BT = args[0] if args else kwargs.get("input_ids")
    return ids_BT if ids_BT is not None else kwargs["inputs_embeds"][..., 0].long()
