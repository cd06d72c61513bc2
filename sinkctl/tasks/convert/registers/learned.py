"""Give a DINOv2 learnable registers: the start, training and its control, what was written beside the original."""

import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import PreTrainedModel

from sinkctl.clock import phase
from sinkctl.errors import Interrupted
from sinkctl.metrics.patch_maps import patch_maps
from sinkctl.model.kinds import leading_tokens
from sinkctl.model.load import LoadedModel
from sinkctl.model.settings import ModelSettings
from sinkctl.recipe.schema import ConvertRecipe
from sinkctl.registers import Registers
from sinkctl.result.convert import CONTROL, CONVERTED, ORIGINAL
from sinkctl.result.registers import RegistersDetail, RegisterTraining
from sinkctl.result.schema import Result
from sinkctl.tasks.convert.registers.distill import distil, rate_of, targets, with_registers
from sinkctl.tasks.convert.registers.find import threshold_of
from sinkctl.tasks.convert.registers.judge import judged
from sinkctl.tasks.convert.registers.probe import Digits, digits
from sinkctl.tasks.convert.registers.task import Parts, Told, load_vision, result_of, write
from sinkctl.tasks.convert.settle import size_of
from sinkctl.tasks.convert.write import files_in, whole_or_nothing
from sinkctl.tasks.finishing import Finish
from sinkctl.tasks.stopping import go_on


def run_learned(
    recipe: ConvertRecipe, loaded: LoadedModel, parts: Parts, notes: list[str], output: Path, told: Told,
    stop: Callable[[], bool], finish: Finish,
) -> Result:  # fmt: skip
    """Of a stopped run nothing is left: it is to be short."""
    settings: Registers = recipe.sink

    def part(what: str, first: float, last: float) -> Callable[[float], None]:
        def progress(share: float) -> None:
            go_on(stop)
            told(what, first + share * (last - first))

        return progress

    try:
        with whole_or_nothing(output, size_of(loaded, loaded.dtype)) as folder:
            with phase("calibrating"):
                threshold = _threshold(loaded.model, parts, settings)
                teaching = targets(
                    loaded.model, parts.finding, settings.views, threshold, part("teacher's features", 0.0, 0.2)
                )
            began = time.monotonic()
            with phase("training"):
                built = with_registers(loaded.model, settings.count, recipe.training.seed)
                controlled = recipe.training.control and recipe.training.trained != "new"
                middle = 0.5 if controlled else 0.8
                losses = distil(built, teaching, recipe.training, recipe.steps, part("training", 0.2, middle))
                control, theirs = None, []
                if controlled:
                    control = _alone(loaded.model)
                    theirs = distil(control, teaching, recipe.training, recipe.steps, part("control", middle, 0.8))
            training = RegisterTraining(
                steps=recipe.steps, batch=recipe.training.batch, images=len(teaching), views=settings.views,
                trained=recipe.training.trained, loss=losses, control=theirs, seconds=time.monotonic() - began,
                lr=rate_of(recipe.training),
            )  # fmt: skip
            with phase("writing"):
                write(built, folder, loaded)
            lines, asked = [], None
            if recipe.evaluation.run:
                with phase("evaluating"):
                    asked = digits(recipe.evaluation.digits, loaded)
                    lines = _lines(loaded, folder, control, parts, threshold, part("judging", 0.8, 1.0), asked)
            detail = RegistersDetail(
                mechanism=settings.kind, settings=settings.model_dump(), model_type=built.config.model_type,
                classifies=False, registers=settings.count, neurons=[], layer=0, threshold=threshold, tried={},
                found_on=len(parts.finding), training=training, judged_on=len(parts.judging), lines=lines,
                digits=0 if asked is None else asked.asked,
                files=files_in(folder),
            )  # fmt: skip
            return result_of(recipe, loaded, detail, notes, folder, finish)
    except Interrupted as error:
        raise Interrupted(f"{error}; nothing was written") from error


def _threshold(model: PreTrainedModel, parts: Parts, settings: Registers) -> float:
    first = len(leading_tokens(model))
    return threshold_of(
        settings, torch.cat([patch_maps(model, image[None]).norm_LBT[-1, 0, first:].cpu() for image in parts.finding])
    )


def _alone(model: PreTrainedModel) -> PreTrainedModel:
    """A copy without registers."""
    built = type(model)(model.config)
    built.load_state_dict(model.state_dict(), strict=False)
    return built.to(model.device, model.dtype).eval()


def _lines(
    loaded: LoadedModel, folder: Path, control: PreTrainedModel | None, parts: Parts, threshold: float,
    told: Callable[[float], None], asked: Digits | None,
) -> list:  # fmt: skip
    """The original, what was written, loaded again, and the control."""
    dtype = str(loaded.dtype).removeprefix("torch.")
    written = load_vision(ModelSettings(name=str(folder), device=str(loaded.device), dtype=dtype)).model
    models = [(ORIGINAL, loaded.model), (CONVERTED, written)]
    models += [] if control is None else [(CONTROL, control)]
    lines, originals = [], None
    for number, (name, model) in enumerate(models):
        line, each = judged(
            name, model, parts.judging, threshold, originals,
            lambda share, number=number: told((number + share) / len(models)), asked,
        )  # fmt: skip
        originals = each if originals is None else originals
        lines.append(line)
    return lines
