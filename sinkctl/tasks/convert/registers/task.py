"""Find register neurons, move them, write the checkpoint, load what was written, compare."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import AutoModelForImageClassification, PreTrainedModel

from sinkctl import __version__
from sinkctl.clock import phase, spent
from sinkctl.errors import Interrupted, UsageError
from sinkctl.model.load import LoadedModel, explained, load
from sinkctl.model.named import absolute
from sinkctl.model.settings import ModelSettings
from sinkctl.model.weights import check_finite
from sinkctl.recipe.measuring import InputSettings
from sinkctl.recipe.schema import ConvertRecipe
from sinkctl.registers.code import FAMILIES
from sinkctl.registers.code.register_model import mlp_outputs
from sinkctl.result.convert import CONVERTED, ORIGINAL
from sinkctl.result.environment import environment
from sinkctl.result.registers import RANDOM, RegisterNeuron, RegistersDetail
from sinkctl.result.schema import Result
from sinkctl.result.store import ENVIRONMENT, RunFolder
from sinkctl.tasks.convert.registers.build import build, check_family
from sinkctl.tasks.convert.registers.distill import check_stock
from sinkctl.tasks.convert.registers.find import Found, fewest, find
from sinkctl.tasks.convert.registers.judge import judged
from sinkctl.tasks.convert.registers.outcome import measurements_of, verdict_of
from sinkctl.tasks.convert.registers.probe import digits
from sinkctl.tasks.convert.settle import size_of
from sinkctl.tasks.convert.write import copy_processor, files_in, whole_or_nothing
from sinkctl.tasks.finishing import Finish, finished
from sinkctl.tasks.measure.images import images as images_of
from sinkctl.tasks.stopping import stoppable
from sinkctl.tasks.stream.outcome import model_report

Told = Callable[[str, float], None]


class Parts(NamedTuple):
    """Images [C, H, W] the neurons are found on, and those they are judged by."""

    finding: list[Tensor]
    judging: list[Tensor]


def load_vision(settings: ModelSettings) -> LoadedModel:
    """The checkpoint with its classifier, where it has one; UsageError for adapters."""
    if settings.adapters:
        raise UsageError(f"--adapter {settings.adapters[0]}: vision transformers are converted without adapters")
    loaded = load(settings, kinds=("vision",))
    if any(name.endswith("ForImageClassification") for name in loaded.model.config.architectures or ()):
        with explained(settings.name):
            loaded.model = AutoModelForImageClassification.from_pretrained(
                settings.name, revision=settings.revision, dtype=loaded.dtype, use_safetensors=True
            ).to(loaded.device)
    loaded.model.eval()
    return loaded


def run_registers(
    recipe: ConvertRecipe, loaded: LoadedModel | None, output: Path, told: Told, stop: Callable[[], bool],
    finish: Finish,
) -> Result:  # fmt: skip
    """The recipe's checkpoint with test-time registers in the new folder `output`; raises as `convert` does."""
    told("loading", 0.0)
    loaded = load_vision(recipe.model) if loaded is None else loaded
    learned = recipe.sink.kind == "registers"
    (check_stock if learned else check_family)(loaded.model, loaded.name)
    check_finite(loaded.name, loaded.model)
    with phase("preparing"):
        parts, notes = split(recipe, loaded)
    settings = recipe.sink
    if learned:
        from sinkctl.tasks.convert.registers.learned import run_learned

        return run_learned(recipe, loaded, parts, notes, output, told, stop, finish)
    try:
        with stoppable(loaded.model, stop), whole_or_nothing(output, size_of(loaded, loaded.dtype)) as folder:
            with phase("calibrating"):
                found = find(
                    loaded.model, loaded.name, parts.finding, settings,
                    lambda share: told("looking for register neurons", 0.5 * share),
                )  # fmt: skip
                moved = [neuron[:2] for neuron in found.neurons]
                count, tried = fewest(found, settings, lambda k: build(loaded.model, settings.count, moved[:k]))
            built = build(loaded.model, settings.count, moved[:count])
            with phase("writing"):
                write(built, folder, loaded)
            if tried and tried[count] > found.before // 10:
                notes.append(
                    f"{tried[count]:,} of {found.before:,} outliers stay with {count} neurons moved, the best of the "
                    "numbers that were tried; --set sink.layer=N looks in later layers too"
                )
            detail = _detail(recipe, loaded, found, count, tried, parts, folder, told)
            return result_of(recipe, loaded, detail, notes, folder, finish)
    except Interrupted as error:
        raise Interrupted(f"{error}; nothing was written") from error


def split(recipe: ConvertRecipe, loaded: LoadedModel) -> tuple[Parts, list[str]]:
    """At most `calibration.samples` images each to find neurons on and to judge them by, which take turns."""
    settings = InputSettings(files=recipe.images, samples=2 * recipe.calibration.samples)
    pixels, _ = images_of(settings, loaded)
    if len(pixels) == 1:
        return Parts(pixels, pixels), ["One image alone: the neurons are judged by the image that they were found on."]
    return Parts(pixels[::2], pixels[1::2]), []


def write(built: PreTrainedModel, folder: Path, loaded: LoadedModel) -> None:
    built.save_pretrained(folder)
    family = next((f for f in FAMILIES.values() if f.auto_map == getattr(built.config, "auto_map", None)), None)
    for path in family.files if family is not None else ():
        (folder / path.name).write_bytes(path.read_bytes())
    if loaded.settings is not None:
        copy_processor(folder, loaded.settings)


def _detail(
    recipe: ConvertRecipe, loaded: LoadedModel, found: Found, count: int, tried: dict[int, int], parts: Parts,
    folder: Path, told: Told,
) -> RegistersDetail:  # fmt: skip
    """What was written, loaded again, beside the original and beside as many other neurons, moved."""
    settings, lines, asked = recipe.sink, [], None
    if recipe.evaluation.run:
        with phase("evaluating"):
            written = load_vision(ModelSettings(name=str(folder), device=str(loaded.device), dtype=_dtype(loaded)))
            others = build(loaded.model, settings.count, _others(found, count, loaded.model))
            originals, asked = None, digits(recipe.evaluation.digits, loaded)
            for number, (name, model) in enumerate(
                ((ORIGINAL, loaded.model), (CONVERTED, written.model), (RANDOM, others))
            ):
                line, each = judged(
                    name, model, parts.judging, found.threshold, originals,
                    lambda share, number=number, name=name: told(f"judging: {name}", 0.5 + (number + share) / 6), asked,
                )  # fmt: skip
                originals = each if originals is None else originals
                lines.append(line)
    return RegistersDetail(
        mechanism=settings.kind,
        settings=settings.model_dump(),
        model_type=f"registers_{loaded.model.config.model_type}",
        classifies=type(loaded.model).__name__.endswith("ForImageClassification"),
        registers=settings.count,
        neurons=[RegisterNeuron(layer=x, index=y, score=score) for x, y, score in found.neurons[:count]],
        layer=found.layer,
        threshold=found.threshold,
        tried=tried,
        found_on=len(parts.finding),
        judged_on=len(parts.judging),
        digits=0 if not lines or asked is None else asked.asked,
        lines=lines,
        files=files_in(folder),
    )


def _others(found: Found, count: int, model: PreTrainedModel) -> list[tuple[int, int]]:
    """As many neurons of the same layers, drawn with a fixed seed among those that are not moved."""
    moved = {neuron[:2] for neuron in found.neurons[:count]}
    outputs, draw = mlp_outputs(model.base_model, model.config.hidden_size), torch.Generator().manual_seed(0)
    chosen = []
    for layer in sorted({layer for layer, _ in moved}):
        own = sum(at == layer for at, _ in moved)
        free = [
            i for i in torch.randperm(outputs[layer].in_features, generator=draw).tolist() if (layer, i) not in moved
        ]
        chosen += [(layer, index) for index in free[:own]]
    return chosen


def _dtype(loaded: LoadedModel) -> str:
    return str(loaded.dtype).removeprefix("torch.")


def result_of(
    recipe: ConvertRecipe, loaded: LoadedModel, detail: RegistersDetail, notes: list[str], folder: Path, finish: Finish
) -> Result:
    seconds = spent()
    settled = recipe.model_copy(update={"images": tuple(map(absolute, recipe.images))})
    result = Result(
        task="convert",
        sinkctl_version=__version__,
        recipe=settled.model_dump(mode="json"),
        model=model_report(loaded, []),
        choices=loaded.choices,
        seconds=seconds,
        complete=True,
        measurements=measurements_of(detail, seconds),
        verdict=verdict_of(detail),
        notes=[*loaded.notes, *notes],
        registers=detail,
    )
    kept = RunFolder(folder)
    kept.write_recipe(result.recipe)
    kept.write_json(ENVIRONMENT, environment())
    return finished(result, kept, finish)
