"""Constants added to each head's output, stored as an output-projection bias: exact, in a stock class.

W (o + b) = W o + W b, so `bias` [H, E] becomes W b, rounded to the dtype of the output projection's weights W. Where
the class has no such bias, `attention_bias` adds it (and zero q, k and v biases, which change nothing), or another
class that computes the same has it: llama for Mistral and Qwen2, smollm3 where these have a sliding window.
H query heads, E value width.
"""

import copy
from collections.abc import Sequence

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from sinkctl.model.undocumented import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from sinkctl.sinks.storable import OPTIONAL_BIAS

# Families whose layers are Llama's, but for biases and windows.
RENAMED = ("mistral", "qwen2")
ATTENTION = ("self_attn", "attention", "self_attention", "attn")
OUTPUT = ("o_proj", "dense", "out_proj")
LOST = {"lost_key", "lost_value"}  # of a start: what keys and values lose
FULL, SLIDING = "full_attention", "sliding_attention"


def lacks(config: PreTrainedConfig) -> str | None:
    """Why an output-projection bias cannot be stored for this config; None where it can."""
    if reason := unstorable(config):
        return reason
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return "its code is not part of transformers"
    model = empty(_target(config))
    projections = output_projections(model)
    if not projections:
        return "its attention has no output projection of a known name"
    if any(projection.bias is None for _, projection in projections):
        return "its output projection has no bias"
    if any(_gated(model.get_submodule(name.rpartition(".")[0]), layer) for name, layer in projections):
        return "a gate stands between its heads and the output projection"
    return None


def build(model: PreTrainedModel, starts: Sequence[dict[str, Tensor]]) -> PreTrainedModel:
    """The model to save: `bias` of each start, and what the output projection's bias was, in that bias."""
    weights = model.state_dict()
    for (name, projection), start in zip(output_projections(model), starts, strict=True):
        assert set(start) == {"bias"}, start.keys()
        weights[f"{name}.bias"] = folded(projection, start["bias"])
    return filled(_target(model.config), model, weights)


def _target(config: PreTrainedConfig) -> PreTrainedConfig:
    if config.model_type in RENAMED:
        kinds, window = windows(config)
        settings = dict(dense_settings(config), attention_bias=True, mlp_bias=False)
        if window is None and config.hidden_size % config.num_attention_heads == 0:  # as LlamaConfig demands
            return AutoConfig.for_model("llama", **settings)
        every_layer = [1] * config.num_hidden_layers
        windowed = dict(layer_types=kinds, use_sliding_window=window is not None, sliding_window=window)
        return AutoConfig.for_model("smollm3", **settings, **windowed, no_rope_layers=every_layer)
    target = copy.deepcopy(config)
    if config.model_type in OPTIONAL_BIAS:
        target.attention_bias = True
    return target


def _gated(attention: nn.Module, projection: nn.Linear) -> bool:
    names = [name for name, _ in attention.named_children()]
    query = getattr(attention, "q_proj", None)
    doubled = query is not None and query.out_features == 2 * projection.in_features  # half of the rows are a gate
    return doubled or any("gate" in name or name == "g_proj" for name in names)


def output_projections(model: PreTrainedModel) -> list[tuple[str, nn.Linear]]:
    """The linear layer behind the heads of each softmax attention layer, with its name, in order."""
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    paths = {name: name.split(".") for name in linear if "." in name}
    return [(name, linear[name]) for name, path in paths.items() if path[-2] in ATTENTION and path[-1] in OUTPUT]


@torch.no_grad()
def folded(projection: nn.Linear, bias_HE: Tensor) -> Tensor:
    """The bias [C] of an output projection that adds `bias_HE` to the heads' outputs, on top of the one it has."""
    precise = torch.promote_types(projection.weight.dtype, torch.float32)
    bias_C = projection.weight.to(precise) @ bias_HE.to(projection.weight.device, precise).flatten()
    if projection.bias is not None:
        bias_C += projection.bias
    return bias_C.to(projection.weight.dtype)


def lessened(model: PreTrainedModel, output: str, start: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name → bias of a layer's projections that take `lost_key` [G, D] from all keys, before their rotation, and
    `lost_value` [G, E] from all values; `output` is the name of its output projection."""
    attention = output.rpartition(".")[0]
    lost = {"k_proj": start["lost_key"] / _lengthened(model), "v_proj": start["lost_value"]}
    return {f"{attention}.{n}.bias": _less(model.get_submodule(f"{attention}.{n}"), x) for n, x in lost.items()}


def _lengthened(model: PreTrainedModel) -> float:
    """By how much rotary embedding makes keys longer (YaRN)."""
    return next((m.attention_scaling for m in model.modules() if hasattr(m, "attention_scaling")), 1.0)


def _less(projection: nn.Linear, lost_GD: Tensor) -> Tensor:
    """The bias of a projection that gives so much less than it did."""
    lost = lost_GD.flatten().to(projection.weight.device, torch.promote_types(projection.weight.dtype, torch.float32))
    return (-lost if projection.bias is None else projection.bias - lost).detach().to(projection.weight.dtype)


def unstorable(config: PreTrainedConfig, *classes: str) -> str | None:
    """Why no stock class, or not one of these model types, takes this config's weights."""
    if getattr(config, "quantization_config", None) is not None:
        return "its weights are quantized"
    absent = [model_type for model_type in classes if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES]
    return f"needs transformers with {absent[0]}" if absent else None


def dense_settings(config: PreTrainedConfig) -> dict:
    """What Llama-like configs have in common."""
    names = (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps",
        "use_cache", "pad_token_id", "bos_token_id", "eos_token_id", "tie_word_embeddings",
    )  # fmt: skip
    return {name: getattr(config, name) for name in names} | dict(
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        attention_dropout=config.attention_dropout or 0.0,
        rope_parameters=copy.deepcopy(config.rope_parameters),
    )


def windows(config: PreTrainedConfig) -> tuple[list[str], int | None]:
    """The kind of each layer of a Llama-like model, and the window (the query counted) of the sliding ones, if any."""
    if config.model_type in ("qwen2", "qwen3"):
        kinds = list(config.layer_types)
    else:
        slides = config.model_type == "mistral" and config.sliding_window is not None
        kinds = [SLIDING if slides else FULL] * config.num_hidden_layers
    return kinds, config.sliding_window if SLIDING in kinds else None


def empty(config: PreTrainedConfig) -> PreTrainedModel:
    """A model of this config without memory for its weights."""
    with init_empty_weights():
        return AutoModelForCausalLM.from_config(config)


def filled(config: PreTrainedConfig, model: PreTrainedModel, weights: dict[str, Tensor]) -> PreTrainedModel:
    """A model of `config` that holds these very tensors, zeros for biases not among them; the rest as in `model`."""
    head = model.get_output_embeddings()
    config.tie_word_embeddings = head is not None and head.weight is model.get_input_embeddings().weight
    built = empty(config)
    for name, tensor in built.state_dict().items():
        if name not in weights:
            assert name.endswith(".bias"), f"{name} has no value"
            weights[name] = torch.zeros(tensor.shape, dtype=model.dtype, device=model.device)
    built.load_state_dict(weights, strict=True, assign=True)
    built.tie_weights()
    built.generation_config = copy.deepcopy(model.generation_config)
    return built.eval()
