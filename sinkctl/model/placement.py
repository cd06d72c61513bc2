"""Which GPU a process takes, and whether a checkpoint's weights fit it, from its config alone."""

import tempfile
from collections import Counter
from typing import Any

import psutil
import torch
from accelerate import init_empty_weights
from accelerate.utils import compute_module_sizes
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from sinkctl import launched
from sinkctl.errors import ModelError
from sinkctl.model.quantized_files import Quantized
from sinkctl.model.settings import ModelSettings


def own_device(settings: ModelSettings) -> ModelSettings:
    """The settings, of several processes with a GPU for this one; on a CPU, or alone, as they are."""
    if launched.processes() == 1 or settings.device == "cpu" or not torch.cuda.is_available():
        return settings
    return settings.model_copy(update={"device": f"cuda:{launched.local_rank()}"})


def laid_out(
    settings: ModelSettings, device: torch.device, choices: dict[str, str]
) -> tuple[dict[str, Any], tempfile.TemporaryDirectory]:
    """(the arguments of `from_pretrained` that lay layers out over devices and the disk, a folder for the latter).

    What the folder holds is needed as long as the model is.
    """
    most = {_number(name): _number(size) for name, size in settings.max_memory.items()}  # GPUs and bytes are numbers
    if device.type == "cpu" and "cpu" not in most:
        most["cpu"] = psutil.virtual_memory().available  # where nothing is said, GPUs are taken
    folder = tempfile.TemporaryDirectory(prefix="sinkctl-", dir=settings.offload_folder)
    choices["device_map"] = f"{settings.device_map}: asked for"
    options = {"device_map": settings.device_map, "max_memory": most or None, "offload_folder": folder.name}
    return options, folder


def _number(text: str) -> int | str:
    return int(text) if text.isdigit() else text


def check_laid_out(name: str, model: PreTrainedModel, settings: ModelSettings, choices: dict[str, str]) -> None:
    """Say in `choices` what is where; ModelError for what cannot be run from the disk."""
    laid = getattr(model, "hf_device_map", {"": model.device})  # it has none where all is in one place
    places = Counter(map(str, laid.values()))
    parts = ", ".join(f"{count} on {f'GPU {place}' if place.isdigit() else place}" for place, count in places.items())
    choices["device_map"] += f"; parts of the model: {parts}"
    away = {key for key, weight in model.named_parameters() if weight.is_meta}
    sink = next((key for key in away if ".sink." in key), None)
    if sink is not None:
        raise ModelError(f"{name}: {sink}, a designed sink, has to stay in memory; leave --device-map out")
    if away and settings.adapters:
        raise ModelError(f"{name}: adapters cannot be merged into layers on the disk; merge them first")


def exceeds_gpu(
    auto_class: type, config: PreTrainedConfig, dtype: torch.dtype | str, common: dict[str, Any],
    choices: dict[str, str], quantized: Quantized | None,
) -> bool:  # fmt: skip
    """Whether the weights take more than the first GPU has free; then `choices` are told.

    `quantized`: how those but the embedding's and the head's are kept; None: in the dtype.
    """
    device = torch.device("cuda", 0)
    with init_empty_weights():
        empty = auto_class.from_config(config, trust_remote_code=common["trust_remote_code"])
    needed = size_of(empty, (config.dtype or torch.float32) if dtype == "auto" else dtype, quantized)
    free = torch.cuda.mem_get_info(device)[0]
    if needed < 0.85 * free:
        return False
    choices["device_map"] = f"auto: {needed / 2**30:.0f} GiB of weights, {free / 2**30:.0f} GiB free on {device}"
    return True


def size_of(model: PreTrainedModel, dtype: torch.dtype, quantized: Quantized | None) -> float:
    """Bytes of its weights, scales not counted."""
    size = compute_module_sizes(model, dtype=dtype)[""]
    if quantized is None or quantized.bits is None:
        return size
    whole = sum(weight.numel() for module in _whole(model) for weight in module.parameters()) * dtype.itemsize
    return whole + (size - whole) * quantized.bits / (8 * dtype.itemsize)


def _whole(model: PreTrainedModel) -> set[nn.Module]:
    """What no method quantizes by itself."""
    ends = {model.get_input_embeddings(), model.get_output_embeddings() if model.can_generate() else None}
    return ends - {None}
