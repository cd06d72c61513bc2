"""What a checkpoint's generation config says: what is taken from it, and what is not and why."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    PreTrainedModel,
)

from sinkctl.model.generation_fields import MORE, NO_MATTER, NOT_USED, PROCESSORS, WARPERS
from sinkctl.model.parts import device_of
from sinkctl.model.undocumented import logits_processors


def stated(model: PreTrainedModel) -> dict[str, Any]:
    """What the checkpoint says that is taken from it: field → value, as plain data, where it does anything."""
    neutral = WARPERS | PROCESSORS | MORE
    own = {name: _plain(name, getattr(model.generation_config, name, None)) for name in neutral}
    return {name: value for name, value in own.items() if not _idle(value, neutral[name])}


def unused(model: PreTrainedModel, how: str) -> dict[str, str]:
    """What it says that is not taken from it: field → "field value …: reason"; `how` is how tokens are chosen."""
    config, found = model.generation_config, {}
    for name, (neutral, reason) in NOT_USED.items():
        found[name] = getattr(config, name, None), neutral, reason.format(how=how)
    known = WARPERS.keys() | PROCESSORS.keys() | MORE.keys() | NOT_USED.keys() | NO_MATTER
    for name, default in vars(GenerationConfig()).items():  # what a checkpoint adds of its own, `generate` ignores too
        if name not in known and not name.startswith("_"):
            found[name] = getattr(config, name, None), default, "sinkctl does not know it"
    return {
        name: f"{name} {shown(value)} of the checkpoint's generation config is not used: {reason}"
        for name, (value, neutral, reason) in found.items()
        if not _idle(value, neutral)
    }


def shown(value: Any) -> str:
    """A value in few words."""
    text = str(value)
    return text if len(text) <= 40 else f"{text[:36]} …"


def stock_processors(
    model: PreTrainedModel, fields: Mapping[str, Any], prompt: int, limit: int | None, eos_ids: frozenset[int]
) -> list[LogitsProcessor]:
    """transformers' own processors for these fields, in `generate()`'s order; ValueError for a wrong value.

    For a text of `prompt` tokens with at most `limit` after them, which ends at `eos_ids`, those of the checkpoint's
    config among them.
    """
    ends, device = sorted(eos_ids) or None, device_of(model)
    own = model.generation_config.eos_token_id
    config = GenerationConfig(**fields, eos_token_id=ends if own is None else own)
    if config.min_new_tokens is not None:
        config.min_length = None  # as in `generate`, the one takes the place of the other
    config.max_length = None if limit is None else prompt + limit
    found = logits_processors(model, config, prompt)
    for place, each in enumerate(found):  # not to end before so many tokens, at whatever ends a text here
        if isinstance(each, MinLengthLogitsProcessor):
            found[place] = MinLengthLogitsProcessor(each.min_length, ends, device)
        elif isinstance(each, MinNewTokensLengthLogitsProcessor):
            found[place] = MinNewTokensLengthLogitsProcessor(prompt, each.min_new_tokens, ends, device)
    return found


def _idle(value: Any, neutral: Any) -> bool:
    return value is None or value == neutral or (isinstance(value, list | dict) and not value)


def _plain(name: str, value: Any) -> Any:
    """As it would stand in a file."""
    if name == "sequence_bias" and isinstance(value, dict):
        return [[list(ids), bias] for ids, bias in value.items()]
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, tuple):
        return list(value)
    return value.to_dict() if hasattr(value, "to_dict") else value
