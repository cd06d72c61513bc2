"""Give a checkpoint a sink: compute the start, train, write, load what was written, compare."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sinkctl import __version__
from sinkctl.check import check
from sinkctl.clock import phase, spent, timed
from sinkctl.errors import Interrupted, within_memory
from sinkctl.kernels.present import uncompiled
from sinkctl.model.compiled import spared_kernels
from sinkctl.model.load import LoadedModel, load
from sinkctl.model.settings import ModelSettings
from sinkctl.recipe.schema import ConvertRecipe
from sinkctl.registers import REGISTERS
from sinkctl.result.environment import environment
from sinkctl.result.schema import Result
from sinkctl.result.store import ENVIRONMENT, RunFolder, resumable
from sinkctl.tasks.convert.conversion import Conversion
from sinkctl.tasks.convert.outcome import measurements_of, verdict_of
from sinkctl.tasks.convert.scratch import scratch
from sinkctl.tasks.convert.settle import settle, size_of
from sinkctl.tasks.convert.training.processes import place
from sinkctl.tasks.convert.training.run import Trained, TrainingRun
from sinkctl.tasks.convert.write import whole_or_nothing
from sinkctl.tasks.finishing import Finish, finished
from sinkctl.tasks.pace import Pace
from sinkctl.tasks.stream.outcome import model_report


@dataclass(frozen=True)
class Progress:
    """Where a run is."""

    what: str
    share: float
    seconds_left: float | None = None


@dataclass(frozen=True)
class Outcome:
    """The Result, and where the checkpoint is."""

    result: Result = field(repr=False)
    path: Path
    verdict: list[str] = field(init=False)  # of the result; what a notebook shows

    def __post_init__(self) -> None:
        object.__setattr__(self, "verdict", self.result.verdict)


@timed()
def run(
    recipe: ConvertRecipe,
    loaded: LoadedModel | None = None,
    *,
    output: str | Path,
    resume: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
    finish: Finish = lambda folder, result: None,
) -> Outcome | None:
    """Convert the recipe's checkpoint (`loaded` stands in for it) into the new folder `output`.

    The folder appears when all of it is there; where there is training, its states are kept in a folder of this name
    until then, and `resume` goes on from the last. `stop` is asked now and then: where it says yes, Interrupted is
    raised, and nothing is left behind but such states. `finish` may add to the folder. Of several processes, the main
    one alone writes, and two of them compare; all but the main one return None.
    """
    output = Path(output)
    check(recipe, output=output, resume=resume, loads=loaded is None)
    if recipe.sink.kind in REGISTERS:
        from sinkctl.tasks.convert.registers.task import run_registers

        return Outcome(
            run_registers(recipe, loaded, output, lambda what, share: progress(Progress(what, share)), stop, finish),
            output,
        )
    recipe = place(recipe)

    def told(what: str, pace: Pace) -> None:
        progress(Progress(what, pace.share, pace.seconds_left))

    progress(Progress("loading", 0.0))
    if loaded is None:
        random = recipe.scratch is not None
        loaded = scratch(recipe.model, recipe.scratch, recipe.training.seed) if random else load(_plain(recipe.model))
    with phase("preparing"):
        conversion = Conversion(settle(recipe, loaded), loaded, told, stop)
    less = "--no-eval compares nothing, and fewer --samples or a smaller --window take less"
    less = "a smaller training.micro_batch or --length takes less" if recipe.steps else less
    try:
        with within_memory(loaded.device, less):
            if recipe.steps:
                result = _trained(conversion, output, finish)
            else:
                with uncompiled(spared_kernels(loaded.model, conversion.work.whole)):
                    result = _begun(conversion, output, finish)
    except Interrupted as error:
        kept = resumable(output)
        left = f"go on with sinkctl convert --resume {shlex.quote(str(output))}" if kept else "nothing was written"
        raise Interrupted(f"{error}; {left}") from error
    return None if result is None else Outcome(result, output)


def _plain(settings: ModelSettings) -> ModelSettings:
    """Quantized weights are written out: what is computed from them, trained and stored is no longer quantized."""
    return settings.model_copy(update={"dequantize": True})


def _begun(conversion: Conversion, output: Path, finish: Finish) -> Result:
    """The start alone."""
    with whole_or_nothing(output, size_of(conversion.loaded, conversion.settled.dtype)) as folder:
        with phase("calibrating"):
            built = conversion.start()
        return _written(conversion, built, None, folder, output, finish)


def _trained(conversion: Conversion, output: Path, finish: Finish) -> Result | None:
    """The start, trained; None where this process is not the main one."""
    training = TrainingRun(conversion, output)
    with training.holding:
        with phase("training"):
            trained = training()
        if not training.main:
            training.others()
            return None
        with whole_or_nothing(output, size_of(conversion.loaded, conversion.settled.dtype), replaces=True) as folder:
            return _written(conversion, trained.built, trained, folder, output, finish)


def _written(
    conversion: Conversion, built, trained: Trained | None, folder: Path, output: Path, finish: Finish
) -> Result:
    settled, loaded = conversion.settled, conversion.loaded
    written, found = conversion.written(built, folder, str(output))
    detail = conversion.detail(folder, written, found, None if trained is None else trained.detail)
    seconds = spent()
    result = Result(
        task="convert",
        sinkctl_version=__version__,
        recipe=settled.recipe.model_dump(mode="json"),
        model=model_report(loaded, []),
        choices=loaded.choices | conversion.choices,
        seconds=seconds,
        complete=True,
        measurements=measurements_of(detail, seconds),
        verdict=verdict_of(detail),
        notes=conversion.notes + found.notes,
        convert=detail,
    )
    kept = RunFolder(folder)
    kept.write_recipe(result.recipe)
    kept.write_json(ENVIRONMENT, environment())
    return finished(result, kept, finish, conversion.told)
