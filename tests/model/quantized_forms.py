"""Checkpoints with quantized weights, of tiny random models or of one given, and what they stand for."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GptOssConfig, LlamaConfig, PreTrainedModel

TOKENIZER = Path(__file__).parents[1] / "data/stories260K"
SIZES = dict(
    hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
    vocab_size=512, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False,
)  # fmt: skip
OF_GPT_OSS = SIZES | dict(
    hidden_size=64, intermediate_size=64, head_dim=16, num_local_experts=4, num_experts_per_tok=2, sliding_window=8,
    rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
)  # fmt: skip
# The sixteen numbers of FP4 (E2M1, OCP Microscaling Formats 1.0), by their codes.
FP4 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def plain(folder: Path, config=None) -> PreTrainedModel:
    """Random weights that make something of a text, saved with a tokenizer."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config or LlamaConfig(**SIZES), dtype=torch.float32).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(4)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(TOKENIZER).save_pretrained(folder)
    return model


def fp8(folder: Path, model: PreTrainedModel | None = None, size: int = 128) -> PreTrainedModel:
    """Blocks of size × size with a scale each; returns what they stand for."""

    def rounded(name: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        block = weight.float().reshape(weight.shape[0] // size, size, weight.shape[1] // size, size)
        scale = block.abs().amax((1, 3)) / 448
        codes = (block / scale[:, None, :, None]).to(torch.float8_e4m3fn)
        kept = {name: codes.reshape(weight.shape), f"{name}_scale_inv": scale}
        return kept, (codes.float() * scale[:, None, :, None]).reshape(weight.shape)

    said = dict(quant_method="fp8", activation_scheme="dynamic", weight_block_size=[size, size])
    return _by_hand(folder, model or plain(folder), lambda name: "layers" in name, rounded, said)


def mxfp4(folder: Path) -> PreTrainedModel:
    """The experts of gpt-oss in blocks of 32 with a power of two each; returns what they stand for."""

    def rounded(name: str, weight_EIO: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        weight_EOI = weight_EIO.transpose(1, 2)
        blocks = weight_EOI.reshape(*weight_EOI.shape[:2], -1, 32)
        exponent = torch.floor(torch.log2(blocks.abs().amax(-1))) - 2
        codes = ((blocks / torch.exp2(exponent)[..., None])[..., None] - FP4).abs().argmin(-1)
        packed = (codes[..., 0::2] | (codes[..., 1::2] << 4)).to(torch.uint8)
        kept = {f"{name}_blocks": packed, f"{name}_scales": (exponent + 127).to(torch.uint8)}
        meant = (FP4[codes] * torch.exp2(exponent)[..., None]).reshape(weight_EOI.shape)
        return kept, meant.transpose(1, 2).contiguous()

    def chosen(name: str) -> bool:
        return "experts" in name and name.endswith("_proj")

    left = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    said = dict(quant_method="mxfp4", modules_to_not_convert=left)
    return _by_hand(folder, plain(folder, GptOssConfig(**OF_GPT_OSS)), chosen, rounded, said)


def _by_hand(folder: Path, model: PreTrainedModel, chosen, rounded, said: dict) -> PreTrainedModel:
    stored, meant = {}, {}
    for name, weight in load_file(folder / "model.safetensors").items():
        kept, meant[name] = rounded(name, weight) if weight.dim() > 1 and chosen(name) else ({name: weight}, weight)
        stored |= kept
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": said}))
    model.load_state_dict(meant)
    return model


def bitsandbytes(folder: Path, bits: int, model: PreTrainedModel | None = None) -> None:
    from transformers import BitsAndBytesConfig

    model = model or plain(folder)
    four = dict(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=model.dtype)
    _by_transformers(folder, model, BitsAndBytesConfig(**four if bits == 4 else dict(load_in_8bit=True)))


def torchao(folder: Path, kind: str, model: PreTrainedModel | None = None) -> None:
    from torchao import quantization
    from transformers import TorchAoConfig

    _by_transformers(folder, model or plain(folder), TorchAoConfig(getattr(quantization, kind)()))


def _by_transformers(folder: Path, model: PreTrainedModel, config) -> None:
    options = dict(dtype=model.dtype, device_map={"": model.device})
    AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, **options).save_pretrained(folder)


def compressed_tensors(folder: Path, preset: str, model: PreTrainedModel | None = None) -> None:
    """Scales from the largest weight of a channel or group, without calibration."""
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationConfig,
        QuantizationStatus,
        apply_quantization_config,
        preset_name_to_scheme,
    )
    from compressed_tensors.quantization.utils import calculate_qparams

    model = model or plain(folder)
    groups = {"group_0": preset_name_to_scheme(preset, ["Linear"])}
    settings = QuantizationConfig(config_groups=groups, ignore=["lm_head"], quantization_status="initialized")
    apply_quantization_config(model, settings)
    for module in model.modules():
        scheme = getattr(module, "quantization_scheme", None)
        if scheme is not None:
            size = scheme.weights.group_size or module.in_features
            grouped = module.weight.data.reshape(module.out_features, -1, size)
            scale, zero = calculate_qparams(grouped.amin(-1), grouped.amax(-1), scheme.weights)
            module.weight_scale.data.copy_(scale)
            if hasattr(module, "weight_zero_point"):
                module.weight_zero_point.data.copy_(zero)
            module.quantization_status = QuantizationStatus.FROZEN
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(folder)
