"""Measure checkpoints, one after the other, keeping what is found on disk."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from sinkctl.check import check
from sinkctl.clock import carry, spent, timed
from sinkctl.errors import Interrupted, ResumeError
from sinkctl.model.linear import fast_linear
from sinkctl.model.load import LoadedModel, load
from sinkctl.model.settings import ModelSettings
from sinkctl.recipe.checkpoints import checkpoints
from sinkctl.recipe.schema import MeasureRecipe
from sinkctl.result.environment import environment
from sinkctl.result.schema import Result
from sinkctl.result.store import ENVIRONMENT, RunFolder
from sinkctl.tasks.finishing import Finish, finished
from sinkctl.tasks.measure.checkpoint import Kept, Measuring, Progress
from sinkctl.tasks.measure.outcome import result_of
from sinkctl.tasks.measure.pace import seconds_of
from sinkctl.tasks.measure.settle import settle
from sinkctl.tasks.stopping import stoppable

ARRAYS = "arrays.safetensors"


@dataclass(frozen=True)
class Outcome:
    """A Result and its arrays: "<checkpoint number>/<input>/<metric>" → means over samples."""

    result: Result = field(repr=False)
    arrays: dict[str, Tensor] = field(repr=False)
    verdict: list[str] = field(init=False)  # of the result; what a notebook shows

    def __post_init__(self) -> None:
        object.__setattr__(self, "verdict", self.result.verdict)


@timed()
def run(
    recipe: MeasureRecipe,
    loaded: LoadedModel | None = None,
    *,
    output: str | Path | None = None,
    resume: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
    finish: Finish = lambda folder, result: None,
) -> Outcome:
    """Measure the recipe's checkpoints (`loaded` stands in for a single one).

    With `output`, a run folder is kept there, with what every checkpoint and input showed as soon as it is known;
    `resume` continues the one there. `stop` is asked before every block: where it says yes, Interrupted is raised.
    """
    check(recipe, output=output, resume=resume, loads=loaded is None)
    began = spent()
    recipe, sources = settle(recipe), checkpoints(recipe)
    sources = sources if loaded is None else sources[-1:]  # an adapted model in hand comes without its base
    folder = None if output is None else RunFolder(output) if resume else RunFolder.create(output)
    kept = Kept({}, {}, folder, recipe.model_dump(mode="json"), _stamped(recipe.input.files))
    if resume:
        _restore(kept)
    elif folder is not None:
        folder.write_recipe(kept.recipe)
        folder.write_json(ENVIRONMENT, environment())
    scores, choices, model = [], {}, None
    try:
        for number, (label, settings, step) in enumerate(sources):

            def told(now: Progress, label=label, number=number) -> None:
                share = (number + now.share) / len(sources)
                progress(replace(now, what=f"{label}: {now.what}", share=share))

            told(Progress("loading", 0.0))
            model = None  # gone before the next one comes
            model = _loaded(settings) if loaded is None else loaded
            seconds = None if recipe.budget is None else seconds_of(recipe.budget) - (spent() - began)
            measuring = Measuring(recipe, model, number, kept, told, stop)
            choices[label] = measuring.choices
            try:
                with stoppable(model.model, stop), fast_linear(model.model) as why:
                    measuring.choices |= {} if why is None else {"linear layers": why}
                    measuring.run(None if seconds is None else max(0.0, seconds) / (len(sources) - number))
            finally:
                if measuring.inputs:
                    scores.append(measuring.score(label, step))
    except Interrupted as error:
        done = sum(not name.endswith(("/model", "/costs")) for name in kept.parts)
        resumed = (
            f"continue with: sinkctl measure --resume {folder.path}" if folder else "nothing was kept (no --output)"
        )
        stopped = Interrupted(f"stopped after {done} input{'' if done == 1 else 's'}; {resumed}")
        if scores:
            stopped.result = result_of(recipe, scores, _joined(choices), complete=False).clocked()
            if folder is not None:
                finish(folder, stopped.result)
                folder.write_result(stopped.result)
        raise stopped from error
    result = result_of(recipe, scores, _joined(choices))
    if folder is not None:
        folder.write_tensors(ARRAYS, kept.arrays)
    return Outcome(finished(result, folder, finish, lambda what: progress(Progress(what, 1.0))), kept.arrays)


def _loaded(settings: ModelSettings) -> LoadedModel:
    return load(settings, kinds=("decoder", "encoder", "vision"))


def _restore(kept: Kept) -> None:
    data, tensors = kept.folder.load_state()
    before = data.get("recipe", {})
    changed = next((name for name in kept.recipe if before.get(name) != kept.recipe[name]), None)
    if changed is not None:
        raise ResumeError(f"{kept.folder.path}: {changed} is not what the run was started with; start a new run")
    if data.get("files") != kept.files:
        raise ResumeError(f"{kept.folder.path}: what it reads changed since the run was started; start a new run")
    carry(data["spent"])
    kept.parts, kept.step = data["parts"], data["step"]
    kept.arrays.update(tensors)


def _stamped(files: Sequence[str]) -> list[list[Any]]:
    """Name, size and time of every file; of those in a folder too."""
    named = [Path(name) for name in files]
    paths = [inner for path in named for inner in (path.rglob("*") if path.is_dir() else [path]) if inner.is_file()]
    return [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(paths)]


def _joined(choices: dict[str, dict[str, str]]) -> dict[str, str]:
    """Choices of every checkpoint, those they have in common once."""
    found: dict[str, str] = {}
    for what in dict.fromkeys(what for own in choices.values() for what in own):
        said = {label: own[what] for label, own in choices.items() if what in own}
        alike = len(set(said.values())) == 1
        found |= {what: next(iter(said.values()))} if alike else {f"{what} of {label}": said[label] for label in said}
    return found
