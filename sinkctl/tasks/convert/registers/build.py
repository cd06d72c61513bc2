"""A stock vision transformer with test-time registers: the same weights in the class that has them."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from sinkctl.errors import ModelError
from sinkctl.registers.code import FAMILIES

# Of config.to_dict(): what the new class says itself.
LEFT_OUT = ("model_type", "architectures", "transformers_version", "auto_map")


def check_family(model: PreTrainedModel, name: str) -> None:
    """ModelError for a model that there is no code for."""
    kind = model.config.model_type
    if getattr(model.config, "test_time_registers", None) is not None:
        raise ModelError(f"{name} has test-time registers already; convert the original")
    check_own(model, name)
    if kind not in FAMILIES:
        raise ModelError(
            f"{name} ({kind}) cannot be given test-time registers: there is code for {', '.join(FAMILIES)}"
        )


def check_own(model: PreTrainedModel, name: str) -> None:
    """ModelError for a model that was trained with registers (DINOv3; DINOv2 with registers)."""
    own = getattr(model.config, "num_register_tokens", None)
    if own:
        raise ModelError(
            f"{name} ({model.config.model_type}) was trained with {own} registers of its own; `sinkctl measure` shows "
            "what they take, and there is nothing to convert"
        )


def build(model: PreTrainedModel, count: int, neurons: Sequence[tuple[int, int]]) -> PreTrainedModel:
    """The model with `count` registers, to which (layer, index) are moved; shares the weights of `model`."""
    family = FAMILIES[model.config.model_type]
    classes, classifies = family.classes(), type(model).__name__.endswith("ForImageClassification")
    model_class = classes["AutoModelForImageClassification" if classifies else "AutoModel"]
    by_layer: dict[str, list[int]] = {}
    for layer, index in sorted(neurons):
        by_layer.setdefault(str(layer), []).append(index)
    kept = {key: value for key, value in model.config.to_dict().items() if key not in LEFT_OUT}
    config = classes["AutoConfig"](**kept, test_time_registers={"count": count, "neurons": by_layer})
    config.architectures, config.auto_map = [model_class.__name__], family.auto_map
    weights = model.state_dict()
    options = {"add_pooling_layer": False} if getattr(model, "pooler", 0) is None else {}
    if family.model_type == "vit" and not classifies and any(name.endswith("mask_token") for name in weights):
        options["use_mask_token"] = True
    with torch.device("meta"):
        built = model_class(config, **options)
    name = next(name for name in built.state_dict() if name.endswith("register_tokens"))
    zeros = torch.zeros(1, count, config.hidden_size, device=model.device, dtype=model.dtype)
    built.load_state_dict(weights | {name: zeros}, strict=True, assign=True)
    return built.eval()
