"""A model that has learned nothing yet."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from sinkctl.errors import UsageError
from sinkctl.model.load import LoadedModel, chosen_device, explained, load
from sinkctl.model.named import resolve
from sinkctl.model.settings import ModelSettings
from sinkctl.model.tokenizer import load_tokenizer
from sinkctl.model.undocumented import CONFIG_MAPPING_NAMES
from sinkctl.recipe.load import suggest
from sinkctl.sinks.code import FAMILIES


def scratch(settings: ModelSettings, said: dict[str, Any], seed: int) -> LoadedModel:
    """Random weights, float32, of the config `said` (model_type and its fields), for the tokenizer of `settings`.

    Left out, the vocabulary and its special tokens are the tokenizer's. UsageError for a config that is none.
    """
    choices: dict[str, str] = {}
    notes: list[str] = []
    device = chosen_device(settings.device, choices)
    named = resolve(settings.name)
    with explained(settings.name):
        common = dict(revision=settings.revision, trust_remote_code=settings.trust_remote_code)
        if named.form == "gguf":
            tokenizer = load(settings).tokenizer
        else:
            tokenizer = load_tokenizer(named.source, settings, choices, notes, **common)
    own = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    said = {"vocab_size": len(tokenizer), **own, **said}
    config = _config(said)
    if config.vocab_size < len(tokenizer):
        raise UsageError(f"scratch.vocab_size: {config.vocab_size:,}, and the tokenizer has {len(tokenizer):,} tokens")
    stored = config.dtype or torch.float32
    try:
        with torch.device("meta"):  # without memory, of which wrong numbers may take much
            AutoModelForCausalLM.from_config(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            model(input_ids=torch.zeros(1, 2, dtype=torch.long), use_cache=False)
    except Exception as error:  # whatever numbers that do not fit make a library raise
        raise UsageError(f"scratch: makes no model ({_one_line(error)})") from error
    name = f"{config.model_type} with random weights"
    model = model.to(device).eval()
    return LoadedModel(model, tokenizer, name, "in memory", choices, stored_dtype=stored, notes=notes)


def _config(said: dict[str, Any]) -> PreTrainedConfig:
    kind = said.get("model_type")
    if kind not in CONFIG_MAPPING_NAMES:
        raise UsageError(f"scratch.model_type: {kind} is no model type{suggest(str(kind), FAMILIES, 'take')}")
    try:
        default = AutoConfig.for_model(kind)
        unknown = [name for name in said if not hasattr(default, name) and name not in ("tie_word_embeddings", "dtype")]
        if unknown:
            known = [name for name in default.to_dict() if not name.startswith("_")]
            raise UsageError(f"scratch.{unknown[0]}: {kind} has no such setting{suggest(unknown[0], known)}")
        return AutoConfig.for_model(**said)
    except UsageError:
        raise
    except Exception as error:  # configs check their fields each in their own way
        raise UsageError(f"scratch: is no config of {kind} ({_one_line(error)})") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
