"""Checkpoints that no stock class can hold: with code of their own, under a model type of their own."""

import copy
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from sinkctl.sinks.base import Sink
from sinkctl.sinks.code import FAMILIES
from sinkctl.sinks.code.sink_model import attention_layers, output_of

INPUTS = ("q_proj", "k_proj", "v_proj", "query_key_value")


def lacks(config: PreTrainedConfig) -> str | None:
    """Why a checkpoint with this config cannot be given code."""
    if config.model_type in FAMILIES:
        return None
    return f"there is no code for {config.model_type}, only for {', '.join(FAMILIES)}"


def build(model: PreTrainedModel, sink: Sink, starts: Sequence[dict[str, Tensor] | None]) -> PreTrainedModel:
    """The same weights in a class with sinks; layers whose start is None stay as they are.

    The model is for saving: it shares the tensors of `model`, and its buffers are on the meta device.
    """
    classes = FAMILIES[model.config.model_type].classes()
    config_class, model_class = classes["AutoConfig"], classes["AutoModelForCausalLM"]
    names = list(dict.fromkeys(name for start in starts if start is not None for name in start))
    has = [number for number, start in enumerate(starts) if start is not None]
    said = sink.stored() | {"parameters": names} | ({} if len(has) == len(starts) else {"layers": has})
    kept = {k: v for k, v in model.config.to_dict().items() if k not in LEFT_OUT}
    config = config_class(**kept, sink=said)
    config.architectures = [model_class.__name__]
    config.auto_map = FAMILIES[model.config.model_type].auto_map
    with torch.device("meta"):
        built = model_class(config)
    weights = model.state_dict()
    names_of = {id(module): name for name, module in model.named_modules()}
    for attention, start in zip(attention_layers(model), starts, strict=True):
        name = names_of[id(attention)]
        weights |= {f"{name}.sink.{key}": x.float() for key, x in (start or {}).items()}
        for projection in doubled(attention, sink):
            weights[f"{names_of[id(projection)]}.weight"] = 2 * projection.weight.detach()
    built.load_state_dict(weights, strict=True, assign=True)
    built.tie_weights()
    built.generation_config = copy.deepcopy(model.generation_config)
    return built


# Of config.to_dict(): what the new class says itself.
LEFT_OUT = ("model_type", "architectures", "transformers_version", "auto_map")


def write_code(folder: Path, config: PreTrainedConfig) -> list[str]:
    """Put the code beside config.json; returns the names of the files."""
    family = next(f for f in FAMILIES.values() if f.auto_map == config.auto_map)
    for path in family.files:
        shutil.copyfile(path, folder / path.name)
    return [path.name for path in family.files]


def doubled(attention: torch.nn.Module, sink: Sink) -> list[torch.nn.Module]:
    """Projections whose weights make up for a gate that begins at a half."""
    if sink.kind != "gate" or sink.start != "exact":
        return []
    if sink.place != "input":
        return [output_of(attention)]
    return [getattr(attention, name) for name in INPUTS if hasattr(attention, name)]
