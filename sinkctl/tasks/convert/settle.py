"""A recipe and a model → what will be done, every `auto` settled; refusals before any work."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from sinkctl.check.convert import check_rounded, rules
from sinkctl.errors import ModelError, UsageError
from sinkctl.model.load import LoadedModel
from sinkctl.model.named import absolute
from sinkctl.model.weights import check_finite
from sinkctl.recipe.schema import ConvertRecipe
from sinkctl.sinks.storage import Form, form_for
from sinkctl.tasks.convert.calibrate import sample_length
from sinkctl.tasks.convert.evaluate import SINK_LENGTH
from sinkctl.tasks.convert.streamed import warm_up
from sinkctl.tasks.convert.training.plan import Plan, plan
from sinkctl.tasks.convert.training.trained import check_family
from sinkctl.tasks.stream.settle import model_in_full

MOST_WINDOW, SAMPLE = 1020, 256
STREAMED = 16  # windows
LEAST_SCORED = 200  # tokens streamed: fewer say nothing


@dataclass(frozen=True)
class Settled:
    """What a run does, in full."""

    recipe: ConvertRecipe
    form: Form
    window: int
    calibration: int  # tokens at the beginning of the text
    held_out: int  # tokens at most
    least: int  # held-out tokens it takes
    length: int  # tokens of a sample
    dtype: torch.dtype  # of the written weights
    plan: Plan | None  # of the training; None: 0 steps


def settle(recipe: ConvertRecipe, loaded: LoadedModel) -> Settled:
    """Raises UsageError or ModelError for what cannot be done."""
    rules(recipe)
    _check_original(loaded, recipe.sink.kind)
    if recipe.sink.replaces_first and recipe.sink.bos == "keep" and loaded.uses_bos:
        raise UsageError("--bos keep: the start puts the sink in the place of the BOS token; choose another --start")
    if recipe.steps:
        check_family(loaded.model, loaded.name, recipe.sink.kind)
    form = form_for(recipe.sink, loaded.model.config, recipe.store)
    context = loaded.context
    window = recipe.calibration.window
    if window == "auto":
        window = MOST_WINDOW if context is None else max(4, min(MOST_WINDOW, context // 2))
    check_rounded(recipe, window)
    length = recipe.evaluation.length
    if length == "auto":
        length = SAMPLE if context is None else min(SAMPLE, context)
    # Also where the start needs none of them, so that every mechanism is judged by the same tokens.
    tokens = recipe.calibration.samples * sample_length(window - 1)
    held_out, least = 0, 0
    if recipe.evaluation.run:
        asked = STREAMED * window if recipe.evaluation.tokens == "auto" else recipe.evaluation.tokens
        held_out, least = warm_up(window) + asked, warm_up(window) + min(asked, LEAST_SCORED)
    text = recipe.text.model_copy(update={"files": tuple(map(absolute, recipe.text.files))})
    model = model_in_full(recipe.model)
    calibration = recipe.calibration.model_copy(update={"window": window})
    evaluation = recipe.evaluation.model_copy(update={"length": length})
    settled = {"text": text, "model": model, "calibration": calibration, "evaluation": evaluation}
    training_text = recipe.training.text
    files = training_text.model_copy(update={"files": tuple(map(absolute, training_text.files))})
    settled["training"] = recipe.training.model_copy(update={"text": files})
    dtype = loaded.stored_dtype or loaded.dtype
    recipe = recipe.model_copy(update=settled)
    training = plan(recipe, loaded, window) if recipe.steps else None
    _check_positions(recipe, loaded, None if training is None else training.length)
    if training is not None:
        said = {"length": training.length, "window": training.window or "full"}
        said["precision"] = "bfloat16" if training.half else "float32"
        recipe = recipe.model_copy(update={"training": training.settings.model_copy(update=said)})
    return Settled(recipe, form, window, tokens, held_out, least, length, dtype, training)


def _check_original(loaded: LoadedModel, mechanism: str) -> None:
    config = loaded.model.config
    if loaded.tokenizer is None or not loaded.tokenizer("a", add_special_tokens=False).input_ids:
        raise ModelError(f"{loaded.name} has no tokenizer; put its files beside the weights")
    if (said := getattr(config, "sink", None)) is not None:
        raise ModelError(f"{loaded.name} is a converted checkpoint ({said['kind']}); convert the original")
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and not hasattr(config, "auto_map"):
        raise ModelError(f"{loaded.name} cannot be converted: transformers loads no {config.model_type} by itself")
    if any(name.endswith(".sinks") for name, _ in loaded.model.named_parameters()):
        raise ModelError(f"{loaded.name} ({config.model_type}) has sink logits already; convert a checkpoint without")
    if any(parameter.device.type == "meta" for parameter in loaded.model.parameters()):
        raise ModelError(f"{loaded.name} does not fit this machine's memory (parts are on disk); take a larger one")
    check_finite(loaded.name, loaded.model)  # of one made in memory too
    if getattr(config, "quantization_config", None) is not None:
        raise ModelError(f"{loaded.name} is quantized; load it with dequantize=True, or convert the original")
    if mechanism == "sink_token" and getattr(config.get_text_config(), "hidden_size_per_layer_input", None):
        raise ModelError(
            f"{loaded.name} ({config.model_type}) looks tokens up in every layer too, where a sink token has no row; "
            "--to sink_token is not for it"
        )


def _check_positions(recipe: ConvertRecipe, loaded: LoadedModel, length: int | None) -> None:
    """UsageError for sequences, trained on (of `length` tokens) or judged by, longer than there are positions for."""
    most = recipe.sink.length if recipe.sink.kind == "positions" else _learned_positions(loaded)
    if most is None:
        return  # it rotates, and goes on past its context
    more = "" if recipe.scratch is None else ", or more in scratch.max_position_embeddings"
    more = ", or more in sink.length" if recipe.sink.kind == "positions" else more
    if length is not None and length > most:
        raise UsageError(f"--length {length}: the model has {most} positions; give {most}{more}")
    judged = max(recipe.evaluation.length, SINK_LENGTH) if recipe.evaluation.run else 0
    if judged > most:
        shorter = f"give {most}" if recipe.evaluation.length > SINK_LENGTH else "give --no-eval"
        what = f"the model has {most} positions, and samples of {judged} tokens judge it"
        raise UsageError(f"evaluation.length: {what}; {shorter}{more}")


def _learned_positions(loaded: LoadedModel) -> int | None:
    """As many as its context has tokens, where it looks them up (OPT keeps two more); None where it has no table."""
    tokens, context = loaded.model.get_input_embeddings(), loaded.context
    tables = [m.num_embeddings for m in loaded.model.modules() if isinstance(m, nn.Embedding) and m is not tokens]
    return next((context for rows in tables if context is not None and context <= rows <= context + 2), None)


def size_of(loaded: LoadedModel, dtype: torch.dtype) -> int:
    """Bytes of the weights in that dtype, and a little for the rest."""
    return int(1.05 * loaded.model.num_parameters() * dtype.itemsize) + (8 << 20)
