"""A model to train: the source's weights in a class that has the mechanism; and back again."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sinkctl.errors import ModelError
from sinkctl.model.attention import decoder_of
from sinkctl.recipe.training import TrainingSettings
from sinkctl.sinks import Sink
from sinkctl.sinks.code import FAMILIES
from sinkctl.sinks.code.sink_model import attention_layers
from sinkctl.sinks.storage import Starts, own_code, same_class
from sinkctl.sinks.storage.biased import filled
from sinkctl.tasks.convert.write import SINK

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "query_key_value", "dense")


PLAIN = ("opt",)  # model types that learn without a mechanism: pre- or post-norm, with learned positions


def check_family(model: PreTrainedModel, name: str, mechanism: str) -> None:
    """ModelError for a model that training does not reach."""
    if model.config.model_type not in FAMILIES and (mechanism != "none" or model.config.model_type not in PLAIN):
        raise ModelError(
            f"{name} ({model.config.model_type}): training takes {', '.join(FAMILIES)}; --steps 0 converts it without"
        )


def runnable(model: PreTrainedModel, sink: Sink, starts: Starts) -> PreTrainedModel:
    """The source with the mechanism, in tensors of its own: float32, on the source's device."""
    built = same_class(model, starts) if not starts else own_code.build(model, sink, starts)
    buffers = dict(model.named_buffers())
    for name, buffer in list(built.named_buffers()):
        owner, _, last = name.rpartition(".")
        source = buffers.get(name)
        assert source is not None or not buffer.is_meta, f"{name} has no value"
        setattr(built.get_submodule(owner), last, (buffer if source is None else source).detach().clone())
    tied = built.get_output_embeddings().weight is built.get_input_embeddings().weight
    for name, parameter in list(built.named_parameters()):
        owner, _, last = name.rpartition(".")
        held = parameter.detach().to(model.device, torch.float32, copy=True)
        setattr(built.get_submodule(owner), last, nn.Parameter(held, parameter.requires_grad))
    if tied:
        built.tie_weights()
    built.config.dtype = torch.float32
    return built.to(model.device).eval()


@dataclass
class Trainable:
    """What of a model learns."""

    model: Any  # a PreTrainedModel, or peft's wrapper of one
    new: dict[str, nn.Parameter]  # the mechanism's
    rest: dict[str, nn.Parameter]  # other weights that are trained
    inner: set[str]  # names in `rest` that are inside decoder layers

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [*self.new.values(), *self.rest.values()]

    @property
    def numbers(self) -> int:
        return sum(p.numel() for p in self.parameters)

    def merged(self) -> PreTrainedModel:
        """The model as it is written: low-rank updates in the weights they update."""
        return self.model.merge_and_unload() if hasattr(self.model, "merge_and_unload") else self.model


def trainable(model: PreTrainedModel, settings: TrainingSettings, token: int | None, held: torch.dtype) -> Trainable:
    """Settle what learns; the other weights are held as `held`. `token`: a row of the embedding that is new."""
    fixed = {name for name, p in model.named_parameters() if not p.requires_grad}
    if settings.trained == "lora":
        model = _with_lora(model, settings)
    row = model.get_input_embeddings().weight if token is not None else None
    new, rest = {}, {}
    attention = {id(p) for layer in attention_layers(model) for p in layer.parameters()}
    for name, parameter in model.named_parameters():
        ours = SINK in name
        wanted = {
            "new": False, "attention": id(parameter) in attention, "all": True, "lora": "lora_" in name,
        }[settings.trained]  # fmt: skip
        if any(name.endswith(other) for other in fixed):
            parameter.requires_grad_(False)
        elif ours:
            new[name] = parameter.requires_grad_(True)
        elif wanted:
            rest[name] = parameter.requires_grad_(True)
        elif parameter is row:
            new[name] = parameter.requires_grad_(True)
            parameter.register_hook(_only(token))
        else:
            parameter.requires_grad_(False)
            parameter.data = parameter.data.to(held)
    layers = {id(p) for p in decoder_layers(model).parameters()}
    return Trainable(model, new, rest, {name for name, p in rest.items() if id(p) in layers})


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The blocks of a decoder."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return decoder_of(base).layers


def taken_apart(trained: PreTrainedModel, original: PreTrainedModel, sink: Sink) -> tuple[PreTrainedModel, list[dict]]:
    """(the source's class with the trained weights, what each layer has of the mechanism): what storage takes."""
    layers, names_of = attention_layers(trained), {id(module): name for name, module in trained.named_modules()}
    owners = {names_of[id(layer)]: number for number, layer in enumerate(layers)}
    weights, starts = {}, [{} for _ in layers]
    for name, tensor in trained.state_dict().items():
        owner, is_sink, last = name.partition(SINK)
        if is_sink:
            starts[owners[owner]][last] = tensor
        else:
            weights[name] = tensor
    for layer in layers:
        for projection in own_code.doubled(layer, sink):
            name = f"{names_of[id(projection)]}.weight"
            weights[name] = weights[name] / 2
    return filled(copy.deepcopy(original.config), original, weights), [start or None for start in starts]


def _only(row: int):
    def keep(gradient: Tensor) -> Tensor:
        kept = torch.zeros_like(gradient)
        kept[row] = gradient[row]
        return kept

    return keep


def _with_lora(model: PreTrainedModel, settings: TrainingSettings):
    from peft import LoraConfig, get_peft_model

    layers = attention_layers(model)
    owners = [name for name, module in model.named_modules() if any(module is layer for layer in layers)]
    names = [f"{o}.{name}" for o in owners for name in PROJECTIONS if hasattr(model.get_submodule(o), name)]
    config = LoraConfig(r=settings.lora.rank, lora_alpha=settings.lora.alpha, target_modules=names)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        return get_peft_model(model, config)


def as_loaded(model: PreTrainedModel, stored: torch.dtype, dtype: torch.dtype) -> PreTrainedModel:
    """A trained model as it would be once written and loaded: weights rounded, those of the mechanism not."""
    for name, parameter in model.named_parameters():
        if SINK not in name:
            parameter.data = parameter.data.to(stored).to(dtype)
    model.requires_grad_(False)
    return model.eval()


def snapshot(model: PreTrainedModel, stored: torch.dtype, dtype: torch.dtype) -> PreTrainedModel:
    """A copy of the model as it would be once written and loaded."""
    return as_loaded(copy.deepcopy(model), stored, dtype)
