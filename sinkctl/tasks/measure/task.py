"""Measure checkpoints, one after the other, keeping what is found on disk."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sinkctl.check import check
from sinkctl.errors import Interrupted, ModelError, ResumeError
from sinkctl.model.load import LoadedModel, load
from sinkctl.model.settings import ModelSettings
from sinkctl.recipe.checkpoints import checkpoints
from sinkctl.recipe.schema import MeasureRecipe
from sinkctl.result.environment import environment
from sinkctl.result.measure import CheckpointScore, CostLine, InputScore, MixingLine
from sinkctl.result.schema import Result
from sinkctl.result.store import ENVIRONMENT, RunFolder
from sinkctl.tasks.measure.costs import costs
from sinkctl.tasks.measure.inputs import inputs
from sinkctl.tasks.measure.outcome import result_of
from sinkctl.tasks.measure.run import InputRun
from sinkctl.tasks.measure.settle import settle
from sinkctl.tasks.measure.verdict import verdict
from sinkctl.tasks.stream.outcome import model_report

ARRAYS = "arrays.safetensors"
COSTS_WEIGH, COST_STEPS = 3, 13  # inputs that costs take as long as; steps they tell of


@dataclass(frozen=True)
class Progress:
    """Where a run is."""

    what: str  # checkpoint and input
    share: float


@dataclass(frozen=True)
class Outcome:
    """A Result and its arrays: "<checkpoint number>/<input>/<metric>" → means over samples."""

    result: Result = field(repr=False)
    arrays: dict[str, Tensor] = field(repr=False)
    verdict: list[str] = field(init=False)  # of the result; what a notebook shows

    def __post_init__(self) -> None:
        object.__setattr__(self, "verdict", self.result.verdict)


@dataclass
class _Kept:
    """What a stopped run need not do again: parts of checkpoints, by "<number>/<part>"."""

    parts: dict[str, Any]
    arrays: dict[str, Tensor]
    folder: RunFolder | None
    recipe: dict[str, Any]
    files: list[list[Any]]  # name, size and time of what is read
    step: int = 0

    def add(self, name: str, part: dict[str, Any], arrays: dict[str, Tensor] | None = None) -> None:
        self.parts[name] = part
        self.arrays |= arrays or {}
        self.step += 1
        if self.folder is not None:
            state = {"step": self.step, "recipe": self.recipe, "files": self.files, "parts": self.parts}
            self.folder.save_state(state, self.arrays)


def run(
    recipe: MeasureRecipe,
    loaded: LoadedModel | None = None,
    *,
    output: str | Path | None = None,
    resume: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
    finish: Callable[[RunFolder, Result], None] = lambda folder, result: None,
) -> Outcome:
    """Measure the recipe's checkpoints (`loaded` stands in for a single one).

    With `output`, a run folder is kept there, with what every checkpoint and input showed as soon as it is known;
    `resume` continues the one there. `stop` is asked after every batch: where it says yes, Interrupted is raised.
    """
    check(recipe, output=output, resume=resume, loads=loaded is None)
    began = time.monotonic()
    recipe, sources = settle(recipe), checkpoints(recipe)
    sources = sources if loaded is None else sources[-1:]  # an adapted model in hand comes without its base
    folder = None if output is None else RunFolder(output) if resume else RunFolder.create(output)
    kept = _Kept({}, {}, folder, recipe.model_dump(mode="json"), _stamped(recipe.input.files))
    if resume:
        _restore(kept)
    elif folder is not None:
        folder.write_recipe(kept.recipe)
        folder.write_json(ENVIRONMENT, environment())
    scores, choices, model = [], {}, None
    try:
        for number, (label, settings, step) in enumerate(sources):

            def told(what: str, share: float, label=label, number=number) -> None:
                progress(Progress(f"{label}: {what}", (number + share) / len(sources)))

            told("loading", 0.0)
            model = None  # gone before the next one comes
            model = _loaded(settings) if loaded is None else loaded
            scores.append(
                _measured(recipe, model, label, step, number, kept, told, stop, choices.setdefault(label, {}))
            )
    except Interrupted as error:
        done = sum(not name.endswith(("/model", "/costs")) for name in kept.parts)
        resumed = (
            f"continue with: sinkctl measure --resume {folder.path}" if folder else "nothing was kept (no --output)"
        )
        raise Interrupted(f"stopped after {done} input{'' if done == 1 else 's'}; {resumed}") from error
    result = result_of(recipe, scores, _joined(choices), time.monotonic() - began)
    if folder is not None:
        folder.write_tensors(ARRAYS, kept.arrays)
        finish(folder, result)
        folder.write_result(result)
        folder.drop_state()
    return Outcome(result, kept.arrays)


def _measured(
    recipe: MeasureRecipe, loaded: LoadedModel, label: str, step: int | None, number: int, kept: _Kept,
    told: Callable[[str, float], None], stop: Callable[[], bool], choices: dict[str, str],
) -> CheckpointScore:  # fmt: skip
    """One checkpoint, whatever of it is kept already left out."""
    known = kept.parts.get(f"{number}/model")
    if known is None:
        kept.add(f"{number}/model", {"fingerprint": loaded.fingerprint})
    elif known["fingerprint"] != loaded.fingerprint:
        raise ResumeError(f"{label}: the checkpoint changed since the run was started; start a new run")
    choices |= loaded.choices
    shown, found, notes = inputs(recipe, loaded), [], list(loaded.notes)
    weight = COSTS_WEIGH if recipe.cost.run and loaded.kind == "decoder" else 0
    parts, steps = len(shown) + weight, count(1)

    def bill(what: str) -> None:
        told(what, (len(shown) + weight * min(1.0, next(steps) / COST_STEPS)) / parts)

    for place, each in enumerate(shown):
        name = f"{number}/{each.name}"
        if name not in kept.parts:
            measured = InputRun(recipe, loaded, each)
            score, arrays = measured(lambda share, p=place, n=each.name: told(n, (p + share) / parts), stop)
            own = [*measured.notes, *([each.note] if each.note else [])]
            named = {f"{number}/{each.name}/{metric}": x for metric, x in arrays.items()}
            part = {"score": score.model_dump(), "notes": own, "choices": measured.choices}
            kept.add(name, part, named)
        found.append(InputScore.model_validate(kept.parts[name]["score"]))
        notes += kept.parts[name]["notes"]
        choices |= kept.parts[name]["choices"]
    name = f"{number}/costs"
    if name not in kept.parts:
        try:
            bought = costs(recipe, loaded, bill, stop)
        except torch.OutOfMemoryError as error:
            hint = "--no-cost leaves the costs out, --set cost.window=N keeps less"
            raise ModelError(f"{loaded.device} is out of memory: {hint}") from error
        kept.add(name, {
            "lines": [line.model_dump() for line in bought.lines],
            "mixing": [line.model_dump() for line in bought.mixing],
            "notes": bought.notes,
        })  # fmt: skip
    lines = [CostLine.model_validate(line) for line in kept.parts[name]["lines"]]
    return CheckpointScore(
        label=label,
        step=step,
        model=model_report(loaded, []),
        kind=loaded.kind,
        verdict=verdict(loaded.kind, found, lines),
        notes=list(dict.fromkeys([*notes, *kept.parts[name]["notes"]])),
        inputs=found,
        costs=lines,
        mixing=[MixingLine.model_validate(line) for line in kept.parts[name]["mixing"]],
    )


def _loaded(settings: ModelSettings) -> LoadedModel:
    return load(settings, kinds=("decoder", "encoder", "vision"))


def _restore(kept: _Kept) -> None:
    data, tensors = kept.folder.load_state()
    before = data.get("recipe", {})
    changed = next((name for name in kept.recipe if before.get(name) != kept.recipe[name]), None)
    if changed is not None:
        raise ResumeError(f"{kept.folder.path}: {changed} is not what the run was started with; start a new run")
    if data.get("files") != kept.files:
        raise ResumeError(f"{kept.folder.path}: what it reads changed since the run was started; start a new run")
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
