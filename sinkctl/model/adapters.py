"""PEFT adapters merged into a model: afterwards it is one of its class, with other weights."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from sinkctl.errors import ModelError
from sinkctl.model.adapter_files import folder_of, other_base, over, read_config
from sinkctl.model.quantized import is_quantized
from sinkctl.model.settings import ModelSettings
from sinkctl.model.weights import check_finite

NAME = "default"  # of an adapter, in peft
SAVED = ".modules_to_save."


def with_adapters(
    model: PreTrainedModel, settings: ModelSettings, choices: dict[str, str], notes: list[str]
) -> PreTrainedModel:
    """The model with each of the adapters in it, one after the other; `choices` and `notes` are told.

    `settings` are `resolved`.

    Over quantized weights an adapter stays beside them, in layers of peft's: merged, they would be rounded again.
    Raises ModelError for an adapter of another model, where peft itself only warns.
    """
    if not settings.adapters:
        return model
    merged = not is_quantized(model)
    said = []
    for name in settings.adapters:
        folder = folder_of(name)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what they say of this adapter is an error below
                model, rows = _applied(model, folder, settings.name, merged)
        except (ValueError, RuntimeError, KeyError, AttributeError, TypeError, NotImplementedError) as error:
            # Of a state dict that does not fit, the first line says so and the second what.
            text = ": ".join(line.strip(" \t:") for line in str(error).splitlines()[:2])
            raise ModelError(f"{folder}: does not fit {over(settings.name, folder)} ({text[:200]})") from error
        check_finite(f"{settings.name} with {folder}", model)
        said.append(_words(name, read_config(folder), rows))
        if (trained := other_base(settings.name, folder)) is not None:
            notes.append(
                f"{name} was trained over {trained}, as its adapter_config.json says; here it changes {settings.name}, "
                "whose matrices are of the same sizes."
            )
    where = f"merged into the weights in {str(model.dtype).removeprefix('torch.')}"
    where = where if merged else "kept beside the quantized weights, which merging would round again"
    choices["adapter"] = f"{'; then '.join(said)}: {where}"
    return model


def _applied(model: PreTrainedModel, folder: Path, base: str, merges: bool) -> tuple[PreTrainedModel, int | None]:
    """(the model with one adapter, rows that its embedding grew to for it or None)."""
    from peft import PeftConfig, PeftModel, load_peft_weights  # an extra

    config = PeftConfig.from_pretrained(folder)
    config.inference_mode = True
    if getattr(config, "alora_invocation_tokens", None):
        raise ModelError(f"{folder}: an activated LoRA works from its invocation tokens on, which no weights can tell")
    before = {name: weight.dtype for name, weight in model.named_parameters()}
    weights = load_peft_weights(str(folder), device="cpu")
    rows = _grown(model, config, weights) if merges else None
    adapted = PeftModel(model, config, NAME)
    found = adapted.load_adapter(str(folder), NAME, is_trainable=False, torch_device=str(model.device))
    # peft writes an embedding that was trained whole under two names, and reads one.
    unexpected = [key for key in found.unexpected_keys if key.replace(SAVED, ".") not in set(weights) - {key}]
    for keys, where in ((found.missing_keys, "it lacks"), (unexpected, "there is no place for its")):
        if keys:
            more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
            key = keys[0].removeprefix("base_model.model.").replace(f".{NAME}", "")
            raise ModelError(f"{folder}: does not fit {over(base, folder)}: {where} {key}{more}")
    if not merges:
        return adapted.get_base_model().eval(), None
    if not hasattr(adapted.base_model, "merge_and_unload"):
        raise ModelError(f"{folder}: {config.peft_type.value} is no change of weights that could be merged")
    if model.dtype == torch.float64:
        adapted.double()
    _untie(adapted.get_base_model())
    return _plain(adapted.merge_and_unload(), before), rows


def _grown(model: PreTrainedModel, config: Any, weights: dict[str, torch.Tensor]) -> int | None:
    """Rows that the embedding was given, where the adapter was trained with more tokens; None where it has enough."""
    embeddings = {name for name, module in model.named_modules() if module is model.get_input_embeddings()}
    held = [x.shape[0] for key, x in weights.items() if x.dim() == 2 and _owner(key) in embeddings]
    rows = max([*held, *(index + 1 for index in _trained_tokens(config))], default=0)
    if rows <= model.get_input_embeddings().weight.shape[0]:
        return None
    model.resize_token_embeddings(rows, mean_resizing=False)
    return rows


def _owner(key: str) -> str:
    """The module that a whole weight kept in an adapter is of."""
    return key.removeprefix("base_model.model.").removesuffix(".weight").removesuffix(".base_layer")


def _trained_tokens(config: Any) -> Iterator[int]:
    said = getattr(config, "trainable_token_indices", None) or getattr(config, "token_indices", None) or []
    for indices in said.values() if isinstance(said, dict) else [said]:
        yield from indices


def _untie(model: PreTrainedModel) -> None:
    """Give the head a weight of its own where an adapter changes it or the embedding: peft merges into what is shared.

    (peft 0.21: `merge_and_unload` of a LoRA on one of two tied matrices changes both, which its forward does not.)
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    pair = [model.get_input_embeddings(), model.get_output_embeddings() if model.can_generate() else None]
    if not any(isinstance(module, BaseTunerLayer) for module in pair):
        return
    embedding, head = [each.get_base_layer() if isinstance(each, BaseTunerLayer) else each for each in pair]
    if head is not None and head.weight is embedding.weight:
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)


def _plain(model: PreTrainedModel, dtypes: dict[str, torch.dtype]) -> PreTrainedModel:
    """As it was loaded: dtypes, what may be trained, and nothing left of peft; its config says what is shared."""
    for name, weight in model.named_parameters():
        weight.data = weight.data.to(dtypes.get(name, weight.dtype))
        weight.requires_grad_(weight.is_floating_point())
    vars(model).pop("peft_config", None)
    head = model.get_output_embeddings() if model.can_generate() else None
    if head is not None and head.weight is not model.get_input_embeddings().weight:
        for config in (model.config, model.config.get_text_config()):
            config.tie_word_embeddings = False
    return model.eval()


def _words(name: str, config: dict[str, Any], rows: int | None) -> str:
    rank = f" of rank {config['r']}" if isinstance(config.get("r"), int) else ""
    return f"{name} ({config['peft_type']}{rank}{'' if rows is None else f', {rows:,} tokens'})"
