"""Output gates of Qwen3, stored in stock classes: one gate a head as `lfm3`, one an element as `qwen3_5_text`.

A gate is σ(W x) of the attention layer's input x, times each head's output. Output projections are doubled here, so
that W = 0 leaves the model as it was: 2 σ(0) = 1, without rounding. Both classes have W, and no bias beside it.

lfm3 is exact in float32; in half precision it rotates with unrounded cosines and sines, where Qwen3 rounds them.
qwen3_5_text scales by 1 + w in its norms, so that w − 1 is stored of each norm weight w: exact from w = 0.5 up; below,
off by up to half the spacing of numbers just under 1: 3e-8 in float32, 2e-3 in bfloat16, 4 % of a weight of 0.05. So
load a bfloat16 checkpoint in float32: it is then stored exactly. In half precision the class also rounds after the
norm's scale, where Qwen3 rounds before.
H query heads, E value width, C hidden width.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from sinkctl.sinks.storage.biased import SLIDING, dense_settings, filled, output_projections, unstorable, windows

# Qwen3's names → LFM3's.
RENAMED = {
    "input_layernorm": "operator_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
    "model.norm": "model.embedding_norm",
}


def lacks_headwise(config: PreTrainedConfig) -> str | None:
    """Why one gate a head cannot be stored (as lfm3) for this config; None where it can."""
    return unstorable(config, "lfm3") or _unlike_qwen3(config)


def lacks_elementwise(config: PreTrainedConfig) -> str | None:
    """Why one gate an element of the heads' outputs cannot be stored (as qwen3_5_text); None where it can."""
    if reason := unstorable(config, "qwen3_5_text") or _unlike_qwen3(config):
        return reason
    return "qwen3_5_text has no sliding window" if SLIDING in config.layer_types else None


def build(model: PreTrainedModel, starts: Sequence[dict[str, Tensor]]) -> PreTrainedModel:
    """The model to save: `gate.weight` [H, C] of each start headwise, [H·E, C] elementwise."""
    weights, gates = model.state_dict(), {}
    for (name, projection), start in zip(output_projections(model), starts, strict=True):
        assert set(start) <= {"gate.weight", "gate.bias"}, start.keys()
        assert not start.get("gate.bias", torch.zeros(1)).any(), "no stock class has a bias in its gate"
        weights[f"{name}.weight"] = 2 * weights[f"{name}.weight"]
        gates[name.rpartition(".")[0]] = start["gate.weight"].to(projection.weight, copy=True)
    headwise = all(len(gate) == model.config.num_attention_heads for gate in gates.values())
    return (_as_lfm3 if headwise else _as_qwen3_5)(model, weights, gates)


def _as_lfm3(model: PreTrainedModel, weights: dict[str, Tensor], gates: dict[str, Tensor]) -> PreTrainedModel:
    for old, new in RENAMED.items():
        weights = {name.replace(f"{old}.", f"{new}."): weight for name, weight in weights.items()}
    weights |= {f"{attention}.g_proj.weight": gate for attention, gate in gates.items()}
    settings, (kinds, window) = dense_settings(model.config), windows(model.config)
    rope = settings.pop("rope_parameters")
    config = AutoConfig.for_model(
        "lfm3",
        **settings,
        attention_bias=model.config.attention_bias,
        rope_parameters={kind: copy.deepcopy(rope) for kind in set(kinds)},
        layer_types=kinds,
        sliding_window=window,
        use_attention_gate=True,
        use_sandwich_norm=False,
    )
    return filled(config, model, weights)


def _as_qwen3_5(model: PreTrainedModel, weights: dict[str, Tensor], gates: dict[str, Tensor]) -> PreTrainedModel:
    settings = dense_settings(model.config)
    width = settings["head_dim"]
    for attention, gate in gates.items():
        weights[f"{attention}.q_proj.weight"] = _interleaved(weights[f"{attention}.q_proj.weight"], gate, width)
        if (bias := weights.get(f"{attention}.q_proj.bias")) is not None:
            weights[f"{attention}.q_proj.bias"] = _interleaved(bias, torch.zeros_like(bias), width)
    weights |= {name: weight - 1 for name, weight in weights.items() if name.endswith("norm.weight")}
    config = AutoConfig.for_model(
        "qwen3_5_text",
        **settings,
        attention_bias=model.config.attention_bias,
        layer_types=model.config.layer_types,
        partial_rotary_factor=1.0,
    )
    return filled(config, model, weights)


def _interleaved(query: Tensor, gate: Tensor, width: int) -> Tensor:
    """Rows of queries and gates, those of one head after the other: [q_1; gate_1; q_2; gate_2; …]."""
    return torch.stack([query.unflatten(0, (-1, width)), gate.unflatten(0, (-1, width))], dim=1).flatten(0, 2)


def _unlike_qwen3(config: PreTrainedConfig) -> str | None:
    if config.model_type != "qwen3":
        return f"stock classes with an output gate fit qwen3, not {config.model_type}"
    return None if config.hidden_act in ("silu", "swish") else f"its activation is {config.hidden_act}, not SiLU"
