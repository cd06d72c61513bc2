"""Weights that a checkpoint keeps in fewer bits: run as transformers runs them, or written out at load."""

from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import CompressedTensorsConfig, FineGrainedFP8Config, Mxfp4Config, PreTrainedConfig, PreTrainedModel

from sinkctl.errors import ModelError
from sinkctl.model.quantized_files import Quantized, check_quantized, is_installed, quantized_by
from sinkctl.model.settings import ModelSettings

# Written out while they are loaded, where transformers is told to.
AT_LOAD = {"fp8": FineGrainedFP8Config, "mxfp4": Mxfp4Config, "compressed-tensors": CompressedTensorsConfig}
# Of LLM.int8 more so: any token of a block that is an outlier in a channel keeps that channel in 16 bits for all.
ROUNDED = (
    "Activations are rounded too ({}): the last bits of a sum, which differ between block sizes (--chunk), can turn a "
    "rounding, in transformers as here."
)


class Storage(NamedTuple):
    """How a checkpoint keeps its weights, and how it is loaded."""

    form: Quantized | None  # None: plain
    options: dict[str, Any]  # of `from_pretrained`
    keeps_dtype: bool  # what is not quantized stays in the dtype it is stored in

    @property
    def in_memory(self) -> Quantized | None:
        """How they lie in memory, until something is done about it."""
        return None if self.options else self.form


def is_quantized(model: PreTrainedModel) -> bool:
    """Whether its weights, as they lie in memory, are."""
    return getattr(model, "hf_quantizer", None) is not None


def storage_of(
    config: PreTrainedConfig, settings: ModelSettings, device: torch.device, choices: dict[str, str]
) -> Storage:
    """How to load a checkpoint; `choices` say how its weights are quantized, if they are, and what becomes of that.

    ModelError where the method's package or a GPU is missing.
    """
    said = config.to_dict()
    form = quantized_by(said)
    if form is None:
        return Storage(None, {}, False)
    check_quantized(settings.name, said, device.type == "cpu")
    asked, unrunnable = settings.dequantize, _without_kernels(form, device)
    if form.method in AT_LOAD and (asked or unrunnable):
        choices["quantized"] = f"{form.words}, written out at load: {'asked for' if asked else unrunnable}"
        return Storage(form, {"quantization_config": AT_LOAD[form.method](dequantize=True)}, False)
    choices["quantized"] = f"{form.words}{', written out after loading: asked for' if asked else ''}"
    # Else the scales of the weights, and what is not quantized, would be of two dtypes.
    return Storage(form, {}, not asked and form.method not in AT_LOAD)


def _without_kernels(form: Quantized, device: torch.device) -> str | None:
    """Why its kernels, which transformers has from the Hub, cannot run here."""
    if not form.needs.kernels:
        return None
    if device.type != "cuda":
        return f"no kernel for it runs on {device.type}"
    return None if is_installed("kernels") else "its GPU kernels come with the package `kernels`, which is not here"


def as_asked(
    model: PreTrainedModel, settings: ModelSettings, found: Quantized | None, choices: dict[str, str], notes: list[str]
) -> PreTrainedModel:
    """The loaded model, with plain weights where that is asked for; `choices` and `notes` say what it is."""
    if found is None:
        return model
    if settings.dequantize:
        return written_out(model, settings.name, found)
    if not is_quantized(model) and "written out" not in choices["quantized"]:
        choices["quantized"] += ", written out at load by transformers"
    if is_quantized(model) and found.activations:
        notes.append(ROUNDED.format(found.words))
    if is_quantized(model) and found.method == "compressed-tensors":
        _unpack(model)
    return model


@torch.no_grad()
def _unpack(model: PreTrainedModel) -> None:
    """One token through it, before which a hook of the whole model unpacks the weights (compressed-tensors 0.20).

    Passes through the decoder alone do not reach that hook.
    """
    if model.can_generate():
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False)


def written_out(model: PreTrainedModel, name: str, found: Quantized) -> PreTrainedModel:
    """The model with plain weights in its dtype; ModelError where transformers cannot make them of these."""
    if not is_quantized(model):
        return model
    if found.method == "torchao":
        _write_out_tensors(model)
        return model
    try:
        return model.dequantize(dtype=model.dtype)
    except NotImplementedError as error:
        raise ModelError(
            f"{name}: weights are {found.words}, which transformers cannot write out; take the original"
        ) from error


def _write_out_tensors(model: PreTrainedModel) -> None:
    """Of torchao, whose weights are tensors that know what they stand for."""
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if type(weight.data) is not torch.Tensor and hasattr(weight, "dequantize"):
                setattr(module, name, nn.Parameter(weight.dequantize().to(model.dtype)))
    model.hf_quantizer.remove_quantization_config(model)
