"""Sink logits of Llama-like models, stored as `granite_swa`: a stock class, in transformers, vLLM and llama.cpp.

Its attention is Llama's times σ(lse − s), which is a softmax with one more outcome of logit s and value 0; `bias` goes
into the output projection's (`biased.py`), what keys and values lose into the biases of theirs. With s = −1e4 and no
bias, logits are bit-identical to those of the source's eager attention; sdpa, which granite_swa lacks, rounds
otherwise. Inexact: in half precision log-sum-exp and s are rounded before they are subtracted. Rows of padding tokens
differ, which no other token sees.
llama.cpp loads the class only with a sliding layer. Where the source has none, the first is called one, with a window
that no text fills (`masks.FAR`): it sees all of the past, here as everywhere.
H query heads, G key/value heads, D key width, E value width.
"""

import math
from collections.abc import Sequence

from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from sinkctl.model.masks import FAR
from sinkctl.sinks.storable import LOGIT_SOURCES
from sinkctl.sinks.storage.biased import (
    LOST,
    SLIDING,
    dense_settings,
    filled,
    folded,
    lessened,
    output_projections,
    unstorable,
    windows,
)

QK_NORMED = ("qwen3", "qwen3_moe", "gemma3_text", "olmo2", "olmo3")
MULTIPLIERS = ("attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling")


def lacks(config: PreTrainedConfig) -> str | None:
    """Why a checkpoint with this config cannot be stored as granite_swa; None where it can."""
    if reason := unstorable(config, "granite_swa"):
        return reason
    rotated = (getattr(config, "rope_parameters", None) or {}).get("partial_rotary_factor", 1.0)
    act = getattr(config, "hidden_act", None)
    capped = [getattr(config, f"{what}_logit_softcapping", None) for what in ("attn", "final")]
    experts = [getattr(config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts")]
    differences = {
        "it normalises queries and keys": config.model_type in QK_NORMED,
        "it caps scores or logits": any(capped),
        "it rotates only a part of each head": rotated not in (None, 1.0),
        "it has experts": any(experts),
        f"its activation is {act}, not SiLU": act not in (None, "silu", "swish"),
        f"{config.model_type} is not known to compute what Llama does": config.model_type not in LOGIT_SOURCES,
    }
    return next((reason for reason, differs in differences.items() if differs), None)


def build(model: PreTrainedModel, starts: Sequence[dict[str, Tensor]]) -> PreTrainedModel:
    """The model to save: `logit` [H] of each start as its layer's sinks, `bias` [H, E], if any, behind the heads.

    `lost_key` [G, D] and `lost_value` [G, E], if any, are taken from every key, before its rotation, and every value.
    """
    weights, biased = model.state_dict(), False
    for (name, projection), start in zip(output_projections(model), starts, strict=True):
        assert {"logit"} <= set(start) <= {"logit", "bias", *LOST}, start.keys()
        assert math.isfinite(start["logit"].sum()), "a sink that takes nothing has logit -1e4"
        attention = name.rpartition(".")[0]
        weights[f"{attention}.sinks"] = start["logit"].to(projection.weight, copy=True)
        query_biased = model.get_submodule(f"{attention}.q_proj").bias is not None
        biased |= query_biased or set(start) != {"logit"}
        if "bias" in start:
            weights[f"{name}.bias"] = folded(projection, start["bias"])
        if "lost_key" in start:
            weights |= lessened(model, name, start)
    return filled(_target(model.config, biased), model, weights)


def _target(config: PreTrainedConfig, biased: bool) -> PreTrainedConfig:
    settings, (kinds, window) = dense_settings(config), windows(config)
    if window is None:
        kinds, window = [SLIDING, *kinds[1:]], max(FAR, config.max_position_embeddings)
    if config.model_type == "granite":
        multipliers = {name: getattr(config, name) for name in MULTIPLIERS}
    else:
        multipliers = dict.fromkeys(MULTIPLIERS, 1.0) | dict(attention_multiplier=settings["head_dim"] ** -0.5)
    return AutoConfig.for_model(
        "granite_swa",
        **settings,
        **multipliers,
        attention_bias=biased,
        mlp_bias=getattr(config, "mlp_bias", False),
        layer_types=kinds,
        sliding_window=window,
    )
