"""A GGUF file → `LoadedModel`: dequantized by transformers' own reader, an ordinary model from then on."""

from collections.abc import Sequence

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from sinkctl.model.adapters import with_adapters
from sinkctl.model.fingerprint import file_fingerprint
from sinkctl.model.gguf.opened import Opened, left_aside, located, opened, own_dtype, stored_as
from sinkctl.model.gguf.vocabulary import check_vocabulary, follow_file
from sinkctl.model.kinds import Kind
from sinkctl.model.load import (
    LoadedModel,
    adapter_fingerprints,
    checked_kind,
    chosen_device,
    explained,
    own_tokenizer,
)
from sinkctl.model.named import Named
from sinkctl.model.settings import ModelSettings
from sinkctl.model.tokenizer import check_rows, load_tokenizer
from sinkctl.model.undocumented import Say, as_ordinary
from sinkctl.model.weights import check_weights

NOISE = 65_537  # a prime, so that no two rows of a matrix are alike


def load_gguf(
    named: Named, settings: ModelSettings, base: ModelSettings, kinds: Sequence[Kind], say: Say, weights: bool
) -> LoadedModel:  # fmt: skip
    """What `sinkctl.model.load.load` returns, for a file; ModelError too where its tokenizer comes out another.

    `base`: the settings resolved, adapters apart. Without `weights` they are random ones of the config.
    """
    name, choices, notes = settings.name, {}, []
    device = chosen_device(settings.device, choices)
    with explained(name):
        path = located(named, base.revision)
        fingerprint = file_fingerprint(path)
        with opened(path, fingerprint, notes, say, weights) as file:
            kind = checked_kind(name, file.config, kinds)
            dtype = _dtype(settings.dtype, device, file.header, choices)
            model, left_out = (
                _model(name, file, dtype, device, notes) if weights else (_drawn(file, dtype, device), None)
            )
            model = with_adapters(model, base, choices, notes).eval()
            tokenizer = load_tokenizer(file.tokenizer, settings, choices, notes)
            notes += follow_file(tokenizer, file.header)
            check_vocabulary(name, tokenizer, file.header)
            tokenizer = own_tokenizer(base, settings, choices, notes) or tokenizer
            choices["weights"] = "; ".join(filter(None, (stored_as(file.header, dtype), left_out)))
    fingerprint = "+".join([fingerprint, *adapter_fingerprints(base)])
    loaded = LoadedModel(model, tokenizer, name, fingerprint, choices, kind, None, None, notes, settings)
    notes += filter(None, [check_rows(tokenizer, loaded.rows, name)])
    return loaded


def _model(
    name: str, file: Opened, dtype: torch.dtype, device: torch.device, notes: list[str]
) -> tuple[PreTrainedModel, str | None]:
    """(the model, what of the file was left out or None)."""
    model, report = AutoModelForCausalLM.from_pretrained(
        file.weights,
        gguf_file=file.gguf_file,
        config=file.config,
        dtype=dtype,
        device_map={"": device},
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are refused below, by name
        **_experts(dtype),
    )
    left_out = check_weights(name, model, report, by="its header")
    notes += left_aside(file)
    as_ordinary(model)
    return model, left_out


def _drawn(file: Opened, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """A model of the config whose matrices repeat the same few random numbers: drawing them all takes seconds."""
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(file.config, dtype=dtype, **_experts(dtype))
    noise = 0.02 * torch.randn(NOISE, generator=torch.Generator().manual_seed(0))
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            values = torch.ones(weight.shape)
            if weight.dim() > 1:
                values = noise.repeat(-(-weight.numel() // NOISE))[: weight.numel()].view(weight.shape)
            setattr(module, name, nn.Parameter(values.to(device, weight.dtype), requires_grad=False))
    model.tie_weights()
    return model.to(device)


def _experts(dtype: torch.dtype) -> dict[str, str]:
    return {"experts_implementation": "eager"} if dtype == torch.float64 else {}


def _dtype(asked: str, device: torch.device, header, choices: dict[str, str]) -> torch.dtype:
    if asked != "auto":
        return getattr(torch, asked)
    if device.type == "cpu":
        choices["dtype"] = "float32: half precision is slower on a CPU"
        return torch.float32
    found, why = own_dtype(header)
    choices["dtype"] = f"{str(found).removeprefix('torch.')}: {why}"
    return found
