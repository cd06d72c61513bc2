"""Which GPU a process takes, and whether a checkpoint's weights fit it, from its config alone."""

from typing import Any

import torch
from accelerate import init_empty_weights
from accelerate.utils import compute_module_sizes
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from sinkctl import launched
from sinkctl.model.quantized_files import Quantized
from sinkctl.model.settings import ModelSettings


def own_device(settings: ModelSettings) -> ModelSettings:
    """The settings, of several processes with a GPU for this one; on a CPU, or alone, as they are."""
    if launched.processes() == 1 or settings.device == "cpu" or not torch.cuda.is_available():
        return settings
    return settings.model_copy(update={"device": f"cuda:{launched.local_rank()}"})


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
