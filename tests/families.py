"""Tiny random checkpoints of every family the core supports, and of some it must refuse."""

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from sinkctl.model.undocumented import CONFIG_MAPPING_NAMES

SHAPE = dict(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=128, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
MOE = dict(num_local_experts=4, num_experts_per_tok=2)
SLIDING = dict(sliding_window=9, layer_types=["sliding_attention", "full_attention"])
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32, rope_theta=10000.0)
LLAMA3 = dict(
    rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32,
    rope_theta=10000.0,
)  # fmt: skip
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
LINEAR, FULL = "linear_attention", "full_attention"
DELTA = dict(linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=8, linear_value_head_dim=8)
MAMBA2 = dict(mamba_n_heads=4, mamba_d_head=16, mamba_n_groups=1, mamba_d_state=8, mamba_chunk_size=8)
LATENT = dict(kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8, num_key_value_heads=4)


def layers(*kinds: str) -> dict:
    return dict(num_hidden_layers=len(kinds), layer_types=list(kinds))


# name → (model_type, what differs from SHAPE); a value of None leaves that setting out.
STREAMED = {
    "llama": ("llama", {}),
    "llama_llama3": ("llama", dict(rope_parameters=LLAMA3)),
    "llama_yarn": ("llama", dict(rope_parameters=YARN)),
    "mistral": ("mistral", dict(sliding_window=9)),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", dict(head_dim=16)),
    "qwen3_moe": ("qwen3_moe", dict(head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)),
    "mixtral": ("mixtral", MOE),
    "gemma2": ("gemma2", dict(head_dim=16, query_pre_attn_scalar=16, attn_logit_softcapping=2.0, **SLIDING)),
    "gemma3": ("gemma3_text", dict(head_dim=16, query_pre_attn_scalar=16, **SLIDING)),
    "gpt_neox": ("gpt_neox", dict(rotary_pct=0.25, hidden_size=64, num_key_value_heads=None)),
    "gpt_oss": ("gpt_oss", dict(head_dim=16, **MOE, **SLIDING)),
    "phi": ("phi", dict(partial_rotary_factor=0.5)),
    "phi3": ("phi3", {}),
    "stablelm": ("stablelm", {}),
    "cohere": ("cohere", {}),
    "cohere2": ("cohere2", dict(num_hidden_layers=4, sliding_window=9)),
    "glm": ("glm", dict(head_dim=16)),
    "glm4": ("glm4", dict(head_dim=16)),
    "smollm3": ("smollm3", dict(num_hidden_layers=4)),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", SLIDING),
    "nemotron": ("nemotron", {}),
    "starcoder2": ("starcoder2", dict(sliding_window=9)),
    "granite": ("granite", {}),
    "granite_swa": ("granite_swa", dict(head_dim=8, **SLIDING)),
    "deepseek_v3": (
        "deepseek_v3",
        dict(
            q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=12, n_routed_experts=4,
            num_experts_per_tok=2, n_group=2, topk_group=1, moe_intermediate_size=16, first_k_dense_replace=1,
            num_key_value_heads=4,
        ),
    ),
    "helium": ("helium", dict(head_dim=8)),
    "ernie4_5": ("ernie4_5", {}),
    "nanochat": ("nanochat", {}),
    "jetmoe": ("jetmoe", dict(kv_channels=8, num_key_value_heads=2, num_attention_heads=None, num_local_experts=4)),
    "afmoe": (
        "afmoe",
        dict(head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, num_dense_layers=1, **SLIDING),
    ),
    # Those whose attention bypasses the interface. 6 heads: the slopes of ALiBi beyond a power of two.
    "falcon": ("falcon", dict(num_key_value_heads=None)),
    "falcon_heads": ("falcon", dict(multi_query=False, parallel_attn=False, bias=True, num_key_value_heads=None)),
    "falcon_new": ("falcon", dict(new_decoder_architecture=True, num_kv_heads=2, num_key_value_heads=None)),
    "falcon_alibi": (
        "falcon",
        dict(alibi=True, multi_query=False, hidden_size=48, num_attention_heads=6, num_key_value_heads=None),
    ),
    "mpt": ("mpt", dict(d_model=32, n_heads=4, n_layers=2, max_seq_len=128)),
    "mpt_clipped": (
        "mpt",
        dict(hidden_size=None, num_attention_heads=None, d_model=48, n_heads=6, n_layers=2, max_seq_len=128,
             attn_config=dict(clip_qkv=1.0, softmax_scale=0.25)),
    ),
    "bloom": ("bloom", dict(hidden_size=48, num_attention_heads=None, n_head=6, n_layer=2)),
    "gptj": ("gptj", dict(n_embd=32, n_head=4, n_layer=2, rotary_dim=4)),
    "codegen": ("codegen", dict(n_embd=32, n_head=4, n_layer=2, rotary_dim=4)),
}  # fmt: skip

# Softmax attention in some layers, a recurrent state in others (or in the same); name → as above.
HYBRID = {
    "qwen3_next": (
        "qwen3_next", dict(head_dim=16, num_hidden_layers=4, shared_expert_intermediate_size=16, **EXPERTS, **DELTA)
    ),
    "qwen3_5": ("qwen3_5_text", dict(head_dim=16, num_hidden_layers=4, **DELTA)),
    "olmo_hybrid": ("olmo_hybrid", dict(**layers(LINEAR, FULL, LINEAR, FULL), **DELTA)),
    "jamba": (
        "jamba",
        dict(num_hidden_layers=4, attn_layer_period=2, attn_layer_offset=1, num_experts=4, num_experts_per_tok=2,
             mamba_d_state=8, mamba_dt_rank=4),
    ),
    "bamba": ("bamba", dict(num_hidden_layers=3, attn_layer_indices=[1], **MAMBA2)),
    "falcon_h1": ("falcon_h1", dict(head_dim=8, mamba_d_ssm=64, **MAMBA2)),
    "granitemoehybrid": (
        "granitemoehybrid", dict(**layers("mamba", "attention", "mamba"), shared_intermediate_size=16, **MOE, **MAMBA2)
    ),
    "nemotron_h": (
        "nemotron_h",
        dict(num_hidden_layers=None, layers_block_type=["mamba", "attention", "mlp", "mamba", "attention"], head_dim=8,
             mamba_num_heads=4, mamba_head_dim=16, n_groups=1, ssm_state_size=8, chunk_size=8),
    ),
    "zamba2": (
        "zamba2",
        dict(num_hidden_layers=4, layers_block_type=["mamba", "hybrid"] * 2, num_key_value_heads=4, mamba_d_state=8,
             n_mamba_heads=4, mamba_headdim=16, chunk_size=8),
    ),
    "lfm2": ("lfm2", dict(block_auto_adjust_ff_dim=False, **layers("conv", FULL, "conv"))),
    "kimi_linear": (
        "kimi_linear", dict(linear_head_dim=8, linear_num_heads=4, num_local_experts=4, num_experts_per_tok=2,
                            moe_intermediate_size=16, **layers(LINEAR, FULL, LINEAR), **LATENT)
    ),
    "bailing_hybrid": (
        "bailing_hybrid",
        dict(head_dim=8, n_group=1, topk_group=1, q_lora_rank=16, **EXPERTS, **layers(LINEAR, FULL, LINEAR), **LATENT),
    ),
}  # fmt: skip

# name → (model_type, settings, a word of the reason)
REFUSED = {
    "gpt2": ("gpt2", dict(n_positions=128, n_embd=32, n_head=4, n_layer=2), "learned embeddings"),
    "opt": ("opt", dict(word_embed_proj_dim=32, ffn_dim=48, num_key_value_heads=None), "learned embeddings"),
    "diffllama": ("diffllama", {}, "more than once"),
    "mamba": ("mamba", dict(num_key_value_heads=None, num_attention_heads=None), "no softmax attention"),
    "recurrent_gemma": ("recurrent_gemma", dict(num_hidden_layers=3, lru_width=32), "cannot be carried|do not call"),
    "minimax": ("minimax", dict(head_dim=8, **MOE, **layers(LINEAR, FULL)), "cannot be carried.*cache of its own"),
    "llama4": (
        "llama4_text",
        dict(head_dim=8, intermediate_size_mlp=48, num_local_experts=2, attention_chunk_size=16),
        "chunks",
    ),
}  # fmt: skip


def in_float64(monkeypatch) -> None:
    """Have the stock classes compute in float64 what they compute in float32 whatever a model's dtype.

    Recurrent layers do nearly all of their work there, which ends float64 agreement at up to 2e-4 nats.
    """
    for name in ("float32", "float"):
        monkeypatch.setattr(torch, name, torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def tiny(model_type: str, settings: dict, dtype: torch.dtype = torch.float64, seed: int = 0) -> PreTrainedModel:
    """A random checkpoint whose attention is not flat, so that every position counts."""
    if model_type not in CONFIG_MAPPING_NAMES:
        pytest.skip(f"transformers {transformers.__version__} has no {model_type}")
    merged = {key: value for key, value in {**SHAPE, **settings}.items() if value is not None}
    torch.manual_seed(seed)
    config = AutoConfig.for_model(model_type, **merged, initializer_range=0.3)
    # Falcon's eager attention adds ALiBi twice, once from the mask; sdpa, its default, adds it once, as it was trained.
    stock = "sdpa" if model_type == "falcon" else "eager"
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=stock)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("sinks") and parameter.ndim == 1:
                parameter.normal_()
    model.config._experts_implementation = "eager"  # the fused experts have no float64
    return model.to(dtype).eval()
