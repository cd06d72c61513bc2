"""Shapes of well-known models, for random weights: their speed does not depend on what they learned."""

from typing import TYPE_CHECKING, Any

from sinkctl.errors import UsageError
from sinkctl.model.settings import ModelSettings

if TYPE_CHECKING:
    from sinkctl.model.load import LoadedModel

# As the configs on the Hugging Face Hub say; what is not named is transformers' default of that model type.
SHAPES: dict[str, dict[str, Any]] = {
    "llama-2-7b": dict(
        model_type="llama", vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=32, max_position_embeddings=4096,
    ),
    "llama-3-8b": dict(
        model_type="llama", vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=8192, rope_theta=500000.0,
    ),
    "llama-3.2-1b": dict(
        model_type="llama", vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
        num_attention_heads=32, num_key_value_heads=8, head_dim=64, max_position_embeddings=131072,
        rope_theta=500000.0, tie_word_embeddings=True,
    ),
    "mistral-7b": dict(
        model_type="mistral", vocab_size=32000, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=32768, sliding_window=4096,
    ),
    "qwen2.5-7b": dict(
        model_type="qwen2", vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28,
        num_attention_heads=28, num_key_value_heads=4, max_position_embeddings=32768, rope_theta=1000000.0,
    ),
    "qwen3-4b": dict(
        model_type="qwen3", vocab_size=151936, hidden_size=2560, intermediate_size=9728, num_hidden_layers=36,
        num_attention_heads=32, num_key_value_heads=8, head_dim=128, max_position_embeddings=40960,
        rope_theta=1000000.0, tie_word_embeddings=True,
    ),
    "pythia-6.9b": dict(
        model_type="gpt_neox", vocab_size=50432, hidden_size=4096, intermediate_size=16384, num_hidden_layers=32,
        num_attention_heads=32, max_position_embeddings=2048, rotary_pct=0.25,
    ),
    "gpt-oss-20b": dict(
        model_type="gpt_oss", vocab_size=201088, hidden_size=2880, intermediate_size=2880, num_hidden_layers=24,
        num_attention_heads=64, num_key_value_heads=8, head_dim=64, num_local_experts=32, num_experts_per_tok=4,
        sliding_window=128, max_position_embeddings=131072,
    ),
    "tiny": dict(
        model_type="llama", vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
    ),
}  # fmt: skip


def check_shape(shape: str) -> None:
    """UsageError for a shape that is not known; this imports no torch."""
    if shape not in SHAPES:
        raise UsageError(f"--shape {shape}: no such shape; one of {', '.join(SHAPES)}")


def built(shape: str, settings: ModelSettings, seed: int = 0) -> "LoadedModel":
    """Random weights of `shape` made on the device, bfloat16 where there is an accelerator; UsageError names others."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from sinkctl.model.load import LoadedModel, chosen_device

    check_shape(shape)
    choices: dict[str, str] = {}
    device = chosen_device(settings.device, choices)
    if settings.dtype == "auto":
        dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    else:
        dtype = getattr(torch, settings.dtype)
    fields = dict(SHAPES[shape])
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    return LoadedModel(model, None, shape, f"random weights, seed {seed}", choices)
