"""Run a stream to its end, keeping what it finds on disk."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from sinkctl.check.stream import check_processes
from sinkctl.clock import phase, timed
from sinkctl.errors import Interrupted
from sinkctl.kernels.present import uncompiled
from sinkctl.model.compiled import spared_kernels
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import StreamRecipe
from sinkctl.result.store import RunFolder, resumable, save_arrays
from sinkctl.tasks.finishing import Finish, begun, finished
from sinkctl.tasks.following import follow
from sinkctl.tasks.stream.apart import run_apart
from sinkctl.tasks.stream.calibration import calibrated
from sinkctl.tasks.stream.crew import Crew
from sinkctl.tasks.stream.kept import Kept, memory_told
from sinkctl.tasks.stream.lines import PLACES, Stretch, write_lines
from sinkctl.tasks.stream.outcome import Outcome, result_of
from sinkctl.tasks.stream.scoring import Progress, StreamRun
from sinkctl.tasks.stream.settle import expected_tokens


@timed()
def run(
    recipe: StreamRecipe,
    loaded: LoadedModel,
    *,
    output: str | Path | None = None,
    resume: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
    finish: Finish = lambda folder, result: None,
) -> Outcome | None:
    """Stream the recipe's text; with `output`, keep a run folder there and, with `resume`, continue the one there.

    `stop` is asked after every block: where it says yes, the state is saved and Interrupted raised. `finish` adds to
    the folder of a finished run, while it can still be resumed. Of several processes, which share out texts on their
    own, or the heads of the model, the first alone has the outcome; the others return None.
    """
    check_processes(recipe, shared=loaded.sharers > 1)
    crew = Crew()

    def told(what: str, share: float) -> None:
        progress(Progress(0, share, 0, {}, 0, None, what))

    def settled() -> StreamRecipe:
        if output is not None:
            folder = RunFolder(output)
            folder.state_data() if resume else folder.check_free()
        return calibrated(recipe, loaded, told, stop)

    with phase("preparing"):
        recipe = crew.agreed(settled)
    with uncompiled(spared_kernels(loaded.model, expected_tokens(recipe))):
        return _streamed(recipe, loaded, crew, output, resume, progress, stop, finish)


def _streamed(
    recipe: StreamRecipe, loaded: LoadedModel, crew: Crew, output: str | Path | None, resume: bool,
    progress: Callable[[Progress], None], stop: Callable[[], bool], finish: Finish,
) -> Outcome | None:  # fmt: skip
    if recipe.text.each is not None:
        return run_apart(recipe, loaded, crew, output, resume, progress, stop, finish)
    if not loaded.speaks:
        return follow(StreamRun(recipe, loaded, RunFolder(output).load_state() if resume else None))
    with begun(partial(StreamRun, recipe, loaded), output, resume) as run_in_folder:
        return _run(*run_in_folder, progress, stop, finish)


def _run(
    stream: StreamRun, scratch: Path, folder: RunFolder | None, progress: Callable[[Progress], None],
    stop: Callable[[], bool], finish: Finish,
) -> Outcome:  # fmt: skip
    kept = Kept(stream, scratch, folder)
    try:
        with phase("scoring"), memory_told(stream.recipe.chunk, stream.loaded.device):
            if not kept.through(lambda: progress(stream.progress()), stop):
                raise Interrupted(_stopped(stream, folder))
            result = result_of(stream, complete=True)
        values = [array.values() for array in kept.losses]
        if folder is not None:
            save_arrays(folder.path / "nll.npy", values)
            if kept.places is not None:
                places = kept.places.values().reshape(-1, PLACES)
                write_lines(folder.path, stream, [Stretch(0, values, places, stream.names)])
        result = finished(result, folder, finish, lambda what: progress(replace(stream.progress(), what=what)))
        return Outcome(result, {label: np.array(array) for label, array in zip(stream.scorers, values, strict=True)})
    finally:
        kept.close(remove=folder is not None and not resumable(folder.path))


def _stopped(stream: StreamRun, folder: RunFolder | None) -> str:
    if folder is None:
        kept = "nothing was kept (no --output)"
    elif not stream.resumable:
        kept = "a pipe cannot be read again, so there is nothing to resume"
    else:
        kept = f"continue with: sinkctl stream --resume {folder.path}"
    return f"stopped after {stream.tally.scored:,} tokens; {kept}"
