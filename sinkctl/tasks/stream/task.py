"""Run a stream to its end, keeping what it finds on disk."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from sinkctl.clock import phase, timed
from sinkctl.errors import Interrupted, ModelError
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import StreamRecipe
from sinkctl.result.environment import environment
from sinkctl.result.schema import Result
from sinkctl.result.store import ENVIRONMENT, GrowingArray, RunFolder, save_arrays
from sinkctl.tasks.finishing import Finish, finished
from sinkctl.tasks.stream.calibration import calibrated
from sinkctl.tasks.stream.outcome import result_of
from sinkctl.tasks.stream.scoring import Progress, StreamRun

# A checkpoint is written this often, and never takes more than a twentieth of the time.
SAVE_SECONDS, SAVE_SHARE = 2.0, 0.05


@dataclass(frozen=True)
class Outcome:
    """A Result and its per-token arrays: label of the policy → NLL in nats, float32; NaN where not scored."""

    result: Result
    nll: dict[str, np.ndarray]


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
) -> Outcome:
    """Stream the recipe's text; with `output`, keep a run folder there and, with `resume`, continue the one there.

    `stop` is asked after every block: where it says yes, the state is saved and Interrupted raised. `finish` adds to
    the folder of a finished run, while it can still be resumed.
    """
    with phase("preparing"):
        told = lambda what, share: progress(Progress(0, share, 0, {}, 0, None, what))  # noqa: E731
        recipe = calibrated(recipe, loaded, told, stop)
        folder = None if output is None else RunFolder(output) if resume else RunFolder.create(output)
        stream = StreamRun(recipe, loaded, folder.load_state() if resume else None)
        if folder is not None and not resume:
            folder.write_recipe(stream.recipe.model_dump(mode="json"))
            folder.write_json(ENVIRONMENT, environment())
    if folder is None:
        with tempfile.TemporaryDirectory() as scratch:
            return _run(stream, Path(scratch), None, progress, stop, finish)
    return _run(stream, folder.path, folder, progress, stop, finish)


def _run(
    stream: StreamRun, scratch: Path, folder: RunFolder | None, progress: Callable[[Progress], None],
    stop: Callable[[], bool], finish: Finish,
) -> Outcome:  # fmt: skip
    arrays = {
        label: GrowingArray(scratch / f"nll-{number}.f32", stream.scored) for number, label in enumerate(stream.scorers)
    }
    saved, cost = time.monotonic(), 0.0
    keeps = folder is not None and stream.resumable

    def save() -> None:
        nonlocal saved, cost
        began = time.monotonic()
        for array in arrays.values():
            array.sync()
        folder.save_state(*stream.state())
        saved = time.monotonic()
        cost = saved - began

    try:
        with phase("scoring"):
            for block in stream:
                for label, nll in block.nll.items():
                    arrays[label].append(nll)
                progress(stream.progress())
                if stop():
                    if keeps:
                        save()
                    raise Interrupted(_stopped(stream, folder))
                if keeps and time.monotonic() - saved > max(SAVE_SECONDS, cost / SAVE_SHARE):
                    save()
            result = result_of(stream, complete=True)
        values = {label: array.values() for label, array in arrays.items()}
        if folder is not None:
            save_arrays(folder.path / "nll.npy", list(values.values()))
        result = finished(result, folder, finish, lambda what: progress(replace(stream.progress(), what=what)))
        return Outcome(result, {label: np.array(array) for label, array in values.items()})
    except torch.OutOfMemoryError as error:
        hint = f"a block of {stream.recipe.chunk} tokens does not fit; --chunk takes fewer"
        raise ModelError(f"{stream.loaded.device} is out of memory: {hint}") from error
    finally:
        for array in arrays.values():
            array.close()
        if folder is not None and not (folder.path / "state").exists():
            for array in arrays.values():
                array.path.unlink(missing_ok=True)


def _stopped(stream: StreamRun, folder: RunFolder | None) -> str:
    if folder is None:
        kept = "nothing was kept (no --output)"
    elif not stream.resumable:
        kept = "a pipe cannot be read again, so there is nothing to resume"
    else:
        kept = f"continue with: sinkctl stream --resume {folder.path}"
    return f"stopped after {stream.scored:,} tokens; {kept}"
