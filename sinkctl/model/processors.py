"""What turns images, text beside them or sound into a model's input, and which class a checkpoint is loaded as."""

import inspect
from importlib.util import find_spec
from typing import Any

from transformers import (
    MODEL_MAPPING,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    AutoModelForSpeechSeq2Seq,
    AutoProcessor,
    PreTrainedConfig,
    WhisperFeatureExtractor,
)

from sinkctl.model.kinds import Kind, hears
from sinkctl.model.undocumented import image_processor_class


def class_of(kind: Kind, config: PreTrainedConfig) -> Any:
    """Models that write come with their head, the others without head or pooler."""
    if kind == "encoder-decoder":
        return AutoModelForSpeechSeq2Seq if hears(config) else AutoModelForSeq2SeqLM
    if kind == "multimodal":
        return AutoModelForImageTextToText
    return AutoModelForCausalLM if kind == "decoder" else AutoModel


def without_pooler(config: PreTrainedConfig) -> dict[str, bool]:
    built = MODEL_MAPPING.get(type(config), None)
    has_one = isinstance(built, type) and "add_pooling_layer" in inspect.signature(built.__init__).parameters
    return {"add_pooling_layer": False} if has_one else {}


def processor_of(kind: Kind, config: PreTrainedConfig, source: str, common: dict) -> Any | None:
    """Of images, in the Pillow version: the same numbers with torchvision and without; of sound; None for text."""
    if kind == "vision" and find_spec("PIL") is not None:
        return _read(image_processor_class(), source, backend="pil", **common)
    if kind == "multimodal" and find_spec("PIL") is not None:
        return _read(AutoProcessor, source, **common)
    if kind == "encoder-decoder" and hears(config):
        found = _read(AutoFeatureExtractor, source, **common)
        if found is None and config.model_type == "whisper":  # it has settings for one thing alone
            return WhisperFeatureExtractor(feature_size=config.num_mel_bins)
        return found
    return None


def _read(auto_class: Any, source: str, **options: Any) -> Any | None:
    try:
        return auto_class.from_pretrained(source, **options)
    except OSError:  # no preprocessor_config.json
        return None
