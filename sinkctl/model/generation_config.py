"""What a checkpoint's generation config says: what is taken from it, and what is not and why.

Every field of transformers' `GenerationConfig` stands in one of the tables below, with the value that does nothing.
"""

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

from sinkctl.model.undocumented import logits_processors

# Fields that a recipe has as well. The warpers act on a draw only, the others on a greedy choice too.
WARPERS = {"temperature": 1.0, "top_k": None, "top_p": 1.0, "min_p": None}
PROCESSORS = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_new_tokens": 0}
# Fields without one in a recipe, which has them under `sampling.config`.
MORE_WARPERS = {"typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "top_h": None}
MORE = MORE_WARPERS | {
    "suppress_tokens": None, "begin_suppress_tokens": None, "bad_words_ids": None, "sequence_bias": None,
    "forced_bos_token_id": None, "forced_eos_token_id": None, "min_length": 0,
    "exponential_decay_length_penalty": None, "remove_invalid_values": False, "renormalize_logits": False,
    "watermarking_config": None, "stop_strings": None,
}  # fmt: skip
_SPEED = "a token is made a step; the field changes their speed, not the text"
_PROMPT = "it weighs the whole prompt anew at every token"
_ONE = "a stream goes on in one place, not along several beams; {how} instead (sinkctl.streaming takes beams)"
NOT_USED: dict[str, tuple[Any, str]] = {
    "num_beams": (1, _ONE),
    "constraints": (None, _ONE),
    "force_words_ids": (None, _ONE),
    "penalty_alpha": (0.0, "contrastive search is not built; {how} instead"),
    "dola_layers": (None, "decoding by contrast of layers is not built; {how} instead"),
    "guidance_scale": (1.0, "guidance takes a second stream, of a prompt of its own"),
    "encoder_repetition_penalty": (1.0, _PROMPT),
    "encoder_no_repeat_ngram_size": (0, _PROMPT),
    "num_return_sequences": (1, "a prompt is continued once; give --prompt several times"),
    "token_healing": (False, "a prompt is taken as it is"),
    "max_time": (None, "--generate says when a text ends, in tokens"),
    "prompt_lookup_num_tokens": (None, _SPEED),
    "assistant_early_exit": (None, _SPEED),
    "use_mtp": (False, _SPEED),
}
# Fields that say how `generate()` computes or what it returns, or that do nothing without beams or an assistant model.
NO_MATTER = {
    "do_sample", "eos_token_id", "bos_token_id", "pad_token_id", "decoder_start_token_id",  # read where they belong
    "max_length", "max_new_tokens",
    "use_cache", "cache_implementation", "cache_config", "max_cache_len", "prefill_chunk_size", "low_memory",
    "compile_config", "disable_compile", "continuous_batching_config",
    "output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate",
    "early_stopping", "length_penalty", "num_beam_groups", "diversity_penalty",
    "is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold",
    "max_matching_ngram_size", "assistant_lookbehind", "target_lookbehind", "assistant_ensemble_weight",
    "speculation_type", "transformers_version",
}  # fmt: skip


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
    ends, device = sorted(eos_ids) or None, model.device
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
