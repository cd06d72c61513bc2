"""Measure checkpoints, one after the other, keeping what is found on disk."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from sinkctl.check import check
from sinkctl.check.measure import is_picture
from sinkctl.clock import spent, timed
from sinkctl.errors import Interrupted
from sinkctl.model.kinds import WORDS
from sinkctl.model.linear import fast_linear
from sinkctl.model.load import LoadedModel, load
from sinkctl.model.parallel import asked_of_the_first
from sinkctl.model.placement import own_device
from sinkctl.model.settings import ModelSettings
from sinkctl.recipe.checkpoints import Checkpoint, checkpoints
from sinkctl.recipe.schema import MeasureRecipe
from sinkctl.result.measure import CheckpointScore
from sinkctl.result.schema import Result
from sinkctl.result.store import RunFolder, resumable
from sinkctl.tasks.finishing import Finish, finished
from sinkctl.tasks.measure.checkpoint import Kept, Measuring, Progress
from sinkctl.tasks.measure.heads import write_heads
from sinkctl.tasks.measure.outcome import result_of
from sinkctl.tasks.measure.pace import seconds_of
from sinkctl.tasks.measure.settle import settle
from sinkctl.tasks.measure.shares import Share
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
) -> Outcome | None:
    """Measure the recipe's checkpoints (`loaded` stands in for a single one).

    With `output`, a run folder is kept there, with what every checkpoint and input showed as soon as it is known;
    `resume` continues the one there. `stop` is asked before every block: where it says yes, Interrupted is raised. Of
    several processes, which share out the checkpoints, or the heads of each (`parallel`), the first alone has the
    outcome; the others return None.
    """
    check(recipe, output=output, resume=resume, loads=loaded is None)
    began = spent()
    recipe, sources = settle(recipe), checkpoints(recipe)
    sources = sources if loaded is None else sources[-1:]  # an adapted model in hand comes without its base
    share = Share(len(sources), heads=recipe.model.parallel is not None if loaded is None else loaded.sharers > 1)
    files = _stamped([*recipe.input.files, *filter(None, [recipe.suspect.file])])
    with ExitStack() as holding:
        kept, folder = share.begun(output, resume, recipe.model_dump(mode="json"), files, holding)
        return _run(recipe, sources, loaded, share, kept, folder, output, began, progress, stop, finish)


def _run(
    recipe: MeasureRecipe, sources: list[Checkpoint], loaded: LoadedModel | None, share: Share, kept: Kept,
    folder: RunFolder | None, output: str | Path | None, began: float, progress: Callable[[Progress], None],
    stop: Callable[[], bool], finish: Finish,
) -> Outcome | None:  # fmt: skip
    found: list[Found] = []
    try:
        own = share.own(sources)
        for place, (number, (label, settings, step)) in enumerate(own):

            def told(now: Progress, label=label, place=place) -> None:
                progress(replace(now, what=f"{label}: {now.what}", share=(place + now.share) / len(own)))

            told(Progress("loading", 0.0))
            model = None  # gone before the next one comes
            model = _loaded(settings, recipe) if loaded is None else loaded
            asked = asked_of_the_first(stop, model.sharers)
            seconds = None if recipe.budget is None else seconds_of(recipe.budget) - (spent() - began)
            measuring = Measuring(recipe, model, number, kept, told, asked)
            try:
                with stoppable(model.model, asked), fast_linear(model.model) as why:
                    measuring.choices |= {} if why is None else {"linear layers": why}
                    measuring.run(None if seconds is None else max(0.0, seconds) / (len(own) - place))
            finally:
                if measuring.inputs:
                    score = measuring.score(label, step)
                    found.append(Found(number, label, score, measuring.choices))
    except Interrupted as error:
        raise _stopped(error, recipe, found, kept, folder, output, share.speaks, finish) from error
    found = share.joined(found, kept, lambda: _resumed(output))
    if not share.speaks:
        return None
    result = _result(recipe, found)
    if folder is not None:
        folder.write_tensors(ARRAYS, kept.arrays)
        write_heads(folder.path, recipe, {each.number: each.score for each in found}, kept.arrays)
    return Outcome(finished(result, folder, finish, lambda what: progress(Progress(what, 1.0))), kept.arrays)


class Found(NamedTuple):
    """What was found out about one checkpoint."""

    number: int
    label: str
    score: CheckpointScore
    choices: dict[str, str]


def _result(recipe: MeasureRecipe, found: list[Found], complete: bool = True) -> Result:
    found = sorted(found, key=lambda each: each.number)
    choices = _joined({each.label: each.choices for each in found})
    return result_of(recipe, [each.score for each in found], choices, complete)


def _resumed(output: str | Path | None) -> str:
    if output is None:
        return "nothing was kept (no --output)"
    if not resumable(Path(output)):
        return "nothing is known yet that could be kept: start it again"
    return f"continue with: sinkctl measure --resume {output}"


def _stopped(
    error: Interrupted, recipe: MeasureRecipe, found: list[Found], kept: Kept, folder: RunFolder | None,
    output: str | Path | None, speaks: bool, finish: Finish,
) -> Interrupted:  # fmt: skip
    """What is raised, with what was found so far."""
    done = sum(not name.endswith(("/model", "/costs", "/suspects")) for name in kept.parts)
    stopped = Interrupted(f"stopped after {done} input{'' if done == 1 else 's'}; {_resumed(output)}")
    stopped.said = not speaks
    if found and speaks:
        stopped.result = _result(recipe, found, complete=False).clocked()
        if folder is not None:
            finish(folder, stopped.result)
            folder.write_result(stopped.result)
    return stopped


def _loaded(settings: ModelSettings, recipe: MeasureRecipe) -> LoadedModel:
    """A model that takes images beside text is measured with them where there are any."""
    seeing = any(is_picture(name) for name in recipe.input.files)
    return load(own_device(settings), kinds=tuple(kind for kind in WORDS if seeing or kind != "multimodal"))


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
