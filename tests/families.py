"""Tiny random checkpoints of every family the core supports, and of some it must refuse."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

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
}  # fmt: skip

# name → (model_type, settings, a word of the reason)
REFUSED = {
    "gpt2": ("gpt2", dict(n_positions=128, n_embd=32, n_head=4, n_layer=2), "learned embeddings"),
    "opt": ("opt", dict(word_embed_proj_dim=32, ffn_dim=48, num_key_value_heads=None), "learned embeddings"),
    "falcon": ("falcon", dict(num_key_value_heads=None), "never calls"),
    "mpt": ("mpt", dict(d_model=32, n_heads=4, n_layers=2), "never calls"),
    "bloom": ("bloom", dict(n_head=4, n_layer=2), "never calls"),
    "gptj": ("gptj", dict(n_embd=32, n_head=4, n_layer=2, rotary_dim=4), "never calls"),
    "codegen": ("codegen", dict(n_embd=32, n_head=4, n_layer=2, rotary_dim=4), "never calls"),
    "diffllama": ("diffllama", {}, "more than once"),
    "mamba": ("mamba", dict(num_key_value_heads=None, num_attention_heads=None), "never calls"),
    "qwen3_next": (
        "qwen3_next",
        dict(head_dim=16, num_hidden_layers=4, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16,
             shared_expert_intermediate_size=16, linear_num_key_heads=2, linear_num_value_heads=2,
             linear_key_head_dim=8, linear_value_head_dim=8),
        "not softmax attention",
    ),
    "falcon_h1": (
        "falcon_h1",
        dict(head_dim=8, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_n_groups=1, mamba_d_state=8,
             mamba_chunk_size=8),
        "reach each other outside",
    ),
    "llama4": (
        "llama4_text",
        dict(head_dim=8, intermediate_size_mlp=48, num_local_experts=2, attention_chunk_size=16),
        "chunks",
    ),
}  # fmt: skip


def tiny(model_type: str, settings: dict, dtype: torch.dtype = torch.float64, seed: int = 0) -> PreTrainedModel:
    """A random checkpoint whose attention is not flat, so that every position counts."""
    merged = {key: value for key, value in {**SHAPE, **settings}.items() if value is not None}
    torch.manual_seed(seed)
    config = AutoConfig.for_model(model_type, **merged, initializer_range=0.3)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("sinks") and parameter.ndim == 1:
                parameter.normal_()
    model.config._experts_implementation = "eager"  # the fused experts have no float64
    return model.to(dtype).eval()
