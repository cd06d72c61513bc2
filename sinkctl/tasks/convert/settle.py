"""A recipe and a model → what will be done, every `auto` settled; refusals before any work."""

from dataclasses import dataclass

import torch
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
from sinkctl.tasks.convert.training.trained import PLAIN, check_family
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
    if training is not None:
        _check_positions(recipe, loaded, training.length)
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


def _check_positions(recipe: ConvertRecipe, loaded: LoadedModel, length: int) -> None:
    """UsageError for sequences, trained on or judged by, that are longer than there are vectors of positions."""
    added = recipe.sink.kind == "positions"
    if not added and loaded.model.config.model_type not in PLAIN:
        return  # it rotates, and goes on past its context
    most = recipe.sink.length if added else loaded.context
    more = f"or {'sink.length' if added else 'scratch.max_position_embeddings'}={{}}"
    if length > most:
        raise UsageError(f"--length {length}: the model has {most} positions; give {most}, {more.format(length)}")
    judged = max(recipe.evaluation.length, SINK_LENGTH) if recipe.evaluation.run else 0
    if judged > most:
        what = f"the model has {most} positions, and is judged by samples of {judged} tokens"
        raise UsageError(f"evaluation.length: {what}; leave them out with --no-eval, {more.format(judged)}")


def size_of(loaded: LoadedModel, dtype: torch.dtype) -> int:
    """Bytes of the weights in that dtype, and a little for the rest."""
    return int(1.05 * loaded.model.num_parameters() * dtype.itemsize) + (8 << 20)
