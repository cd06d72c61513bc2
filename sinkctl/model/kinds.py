"""Which kind of transformer a checkpoint holds, told from its config."""

from typing import Literal

from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING,
    PreTrainedConfig,
    PreTrainedModel,
)

from sinkctl.errors import ModelError

Kind = Literal["decoder", "encoder", "vision", "encoder-decoder", "multimodal", "diffusion"]
WORDS: dict[Kind, str] = {
    "decoder": "a decoder", "encoder": "an encoder", "vision": "a vision model",
    "encoder-decoder": "an encoder-decoder", "multimodal": "a multimodal decoder",
    "diffusion": "a diffusion transformer",
}  # fmt: skip
TAKEN = (
    "sinkctl takes decoders, and `sinkctl measure` encoders, encoder-decoders, vision transformers, "
    "multimodal decoders and DiT too"
)

# Of which the heads are not shared among processes.
WHOLE: tuple[Kind, ...] = ("encoder-decoder", "multimodal", "diffusion")

CAUSAL_CLASSES = ("ForCausalLM", "LMHeadModel")
# Fields of what has no sequence of tokens that all blocks share: Swin, ConvNeXt, MobileViT; SAM, ViTDet.
STAGED = ("depths", "hidden_sizes", "window_size", "window_block_indices")
CLS_NAMES = ("cls_token", "class_embedding", "class_token")


def kind_of(config: PreTrainedConfig, seeing: bool = False) -> Kind:
    """A decoder, an encoder, both beside each other or a vision transformer; ModelError for anything else.

    A decoder that takes images too is one of text alone unless it is to be `seeing`.
    """
    if seeing and type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and not config.is_encoder_decoder:
        return "multimodal"
    name = config.name_or_path or config.model_type
    if config.is_encoder_decoder or config.get_text_config().is_encoder_decoder:
        if hears(config) or type(config) in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
            return "encoder-decoder"
        raise ModelError(f"{name} is an encoder-decoder of neither speech nor text ({config.model_type}); {TAKEN}")
    kind = _of_known(config) or _of_own_code(config)
    if kind is None and type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise ModelError(
            f"{name} ({config.model_type}) takes images and text, and transformers loads no decoder from it; measure "
            f"it with `sinkctl measure --images`, or save its language model as a checkpoint of its own: {TAKEN}"
        )
    if kind is None:
        says = ", ".join(config.architectures or [config.model_type])
        raise ModelError(f"{name} is neither a decoder, an encoder nor a vision transformer ({says}); {TAKEN}")
    if kind == "vision" and any(hasattr(config, field) for field in ("mask_ratio", "num_frames")):
        raise ModelError(f"{name} ({config.model_type}) masks patches at random, or takes videos; {TAKEN}")
    if kind == "vision" and any(hasattr(config, field) for field in STAGED):
        raise ModelError(f"{name} ({config.model_type}) works in stages or windows, not on one row of patches; {TAKEN}")
    return kind


def check_shared(name: str, kind: Kind, parallel: str | None) -> None:
    """ModelError for a kind whose heads processes do not share out."""
    if parallel is not None and kind in WHOLE:
        raise ModelError(f"--parallel {parallel}: {name} is {WORDS[kind]}, whose heads are not shared; leave it out")


def hears(config: PreTrainedConfig) -> bool:
    """Whether it is an encoder-decoder that reads sound."""
    return type(config) in MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING


def _of_known(config: PreTrainedConfig) -> Kind | None:
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        if type(config) not in MODEL_FOR_MASKED_LM_MAPPING:
            return "decoder"
        # BERT and its kin: the class alone does not decide, its attention is causal only where is_decoder says so.
        return "decoder" if getattr(config, "is_decoder", _says(config, CAUSAL_CLASSES)) else "encoder"
    if type(config) in MODEL_FOR_MASKED_LM_MAPPING:
        return "encoder"
    if hasattr(config, "vision_config") or not all(hasattr(config, field) for field in ("image_size", "patch_size")):
        return None  # CLIP as a whole; ResNet, ImageGPT
    # BEiT has a vocabulary too, of what its patches are trained to predict.
    images = type(config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING or not hasattr(config, "vocab_size")
    return "vision" if images else None


def _of_own_code(config: PreTrainedConfig) -> Kind | None:
    """For a checkpoint with code of its own: by the names of its classes, and of what its code registers."""
    registered = getattr(config, "auto_map", None) or {}
    if _says(config, CAUSAL_CLASSES) or "AutoModelForCausalLM" in registered:
        return "decoder"
    if _says(config, ("ForMaskedLM",)) or "AutoModelForMaskedLM" in registered:
        return "encoder"
    if _says(config, ("ForImageClassification",)) or "AutoModelForImageClassification" in registered:
        return "vision"
    return None


def _says(config: PreTrainedConfig, endings: tuple[str, ...]) -> bool:
    return any(name.endswith(endings) for name in config.architectures or ())


def leading_tokens(model: PreTrainedModel) -> list[str]:
    """The tokens a vision transformer puts in front of its patches: [CLS], [DIST] (DeiT), [REG 1] …"""
    own = {name.rpartition(".")[2]: parameter for name, parameter in model.named_parameters()}
    found = ["[CLS]"] if any(name in own for name in CLS_NAMES) else []
    found += ["[DIST]"] if "distillation_token" in own else []
    registers = own["register_tokens"].shape[-2] if "register_tokens" in own else 0
    return found + [f"[REG {number + 1}]" for number in range(registers)]
