"""How a checkpoint with a sink is stored: in a class of transformers where one fits, else with code of its own."""

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from sinkctl.errors import ModelError
from sinkctl.sinks.base import Sink
from sinkctl.sinks.sink_logit import FAR_BELOW
from sinkctl.sinks.storage import biased, gated, granite_swa, own_code

Starts = Sequence[dict[str, Tensor] | None]


class Form(NamedTuple):
    """Where the mechanism goes."""

    name: str
    reason: str
    own_code: bool
    build: Callable[[PreTrainedModel, Starts], PreTrainedModel]  # a model to save, not to run


def form_for(sink: Sink, config: PreTrainedConfig, asked: str = "auto") -> Form:
    """The form for a mechanism and a source; `asked` is auto, stock or code. ModelError says what there is none for."""
    slides = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    if sink.kind == "score_bias" and slides:
        raise ModelError(
            f"{config.model_type} has sliding windows, which lose the first token; score_bias needs it kept"
        )
    if sink.kind in ("none", "sink_token"):
        return Form("same class", "the mechanism is no part of the model", False, same_class)
    name, lacks, build = _stock(sink)
    missing = lacks(config)
    if asked != "code" and missing is None:
        return Form(f"stock {name}", "transformers has it", False, build)
    if asked == "stock":
        raise ModelError(f"{sink.kind} cannot be stored in a stock class: {missing}; leave --store stock out")
    no_code = own_code.lacks(config)
    if no_code is not None:
        raise ModelError(f"{config.model_type} cannot be given {sink.kind}: {missing}, and {no_code}")
    reason = "asked for" if asked == "code" else missing
    return Form("own code", reason, True, lambda model, starts: own_code.build(model, sink, starts))


def _stock(sink: Sink) -> tuple[str, Callable[[PreTrainedConfig], str | None], Callable | None]:
    if sink.kind in ("sink_logit", "softmax1"):
        return (
            "granite_swa",
            granite_swa.lacks,
            _with(granite_swa.build, lambda H, E: {"logit": torch.full((H,), FAR_BELOW)}),
        )
    if sink.kind == "value_bias":
        return "output bias", biased.lacks, _with(biased.build, lambda H, E: {"bias": torch.zeros(H, E)})
    if sink.kind == "gate" and sink.place == "output" and sink.start == "exact":
        headwise = sink.form == "headwise"
        lacks = gated.lacks_headwise if headwise else gated.lacks_elementwise
        return "lfm3" if headwise else "qwen3_5_text", lacks, gated.build
    return "", lambda config: f"no stock class has {sink.kind}", None


def same_class(
    model: PreTrainedModel, starts: Starts = (), weights: dict[str, Tensor] | None = None
) -> PreTrainedModel:
    """Another model of the class, with the same tensors or with `weights`."""
    return biased.filled(copy.deepcopy(model.config), model, model.state_dict() if weights is None else weights)


def _with(build: Callable, nothing: Callable[[int, int], dict[str, Tensor]]) -> Callable:
    """`build`, with what does nothing in the layers that have no start."""

    def filled(model: PreTrainedModel, starts: Starts) -> PreTrainedModel:
        config = model.config
        heads = config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        return build(model, [nothing(heads, width) if start is None else start for start in starts])

    return filled
