"""A model that has learned nothing yet."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from sinkctl.errors import UsageError
from sinkctl.model.load import DEMO, LoadedModel, chosen_device, explained
from sinkctl.model.settings import ModelSettings


def scratch(settings: ModelSettings, said: dict[str, Any], seed: int) -> LoadedModel:
    """Random weights, float32, of the config `said` (model_type and its fields), for the tokenizer of `settings`.

    Left out, the vocabulary and its special tokens are the tokenizer's. UsageError for a config that is none.
    """
    choices: dict[str, str] = {}
    device = chosen_device(settings.device, choices)
    source = str(DEMO) if settings.name == "demo" else settings.name
    with explained(settings.name):
        tokenizer = AutoTokenizer.from_pretrained(
            source, revision=settings.revision, trust_remote_code=settings.trust_remote_code
        )
    own = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    said = {"vocab_size": len(tokenizer), **own, **said}
    try:
        config = AutoConfig.for_model(**said)
    except (TypeError, ValueError) as error:
        raise UsageError(f"scratch: is no config ({' '.join(str(error).split())[:200]})") from error
    unknown = [name for name in said if not hasattr(config, name)]
    if unknown:
        raise UsageError(f"scratch.{unknown[0]}: {config.model_type} has no such setting")
    if config.vocab_size < len(tokenizer):
        raise UsageError(f"scratch.vocab_size: {config.vocab_size:,}, and the tokenizer has {len(tokenizer):,} tokens")
    stored = config.dtype or torch.float32
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    name = f"{config.model_type} with random weights"
    return LoadedModel(model.to(device).eval(), tokenizer, name, "in memory", choices, stored_dtype=stored)
