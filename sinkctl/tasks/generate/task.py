"""Generate to the end, keeping what comes on disk."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from sinkctl.clock import phase, timed
from sinkctl.errors import Interrupted, within_memory
from sinkctl.model.load import LoadedModel
from sinkctl.model.parallel import tell
from sinkctl.recipe.schema import GenerateRecipe
from sinkctl.result.schema import Result
from sinkctl.result.store import GrowingArray, RunFolder, resumable, save_arrays
from sinkctl.tasks.finishing import Finish, begun, finished
from sinkctl.tasks.following import follow
from sinkctl.tasks.generate.generation import ENDED, GenerateRun, Tokens
from sinkctl.tasks.generate.outcome import result_of
from sinkctl.tasks.generate.spelling import PATIENCE, Spelling
from sinkctl.tasks.stream.kept import SAVE_SECONDS, SAVE_SHARE

SPELT = 4096  # tokens that are spelt at once


@dataclass(frozen=True)
class Generated:
    """A Result and the ids behind it: int32 [steps, rows], −1 where a row had ended."""

    result: Result
    ids: np.ndarray


@timed()
def run(
    recipe: GenerateRecipe,
    loaded: LoadedModel,
    *,
    output: str | Path | None = None,
    resume: bool = False,
    progress: Callable[[Tokens, GenerateRun], None] = lambda tokens, run: None,
    stop: Callable[[], bool] = lambda: False,
    finish: Finish = lambda folder, result: None,
) -> Generated | None:
    """Generate the recipe's tokens; `output`, `resume`, `stop` and `finish` as in `stream`.

    Of processes that have the model between them, the first alone has the outcome; the others return None.
    """
    if not loaded.speaks:
        return follow(GenerateRun(recipe, loaded, RunFolder(output).load_state() if resume else None))
    with begun(partial(GenerateRun, recipe, loaded), output, resume) as run_in_folder:
        return _run(*run_in_folder, progress, stop, finish)


def _run(
    generation: GenerateRun, scratch: Path, folder: RunFolder | None,
    progress: Callable[[Tokens, GenerateRun], None], stop: Callable[[], bool],
    finish: Finish,
) -> Generated:  # fmt: skip
    array = GrowingArray(scratch / "tokens.i32", generation.steps * generation.rows, "<i4")
    saved, cost = time.monotonic(), 0.0

    def save() -> None:
        nonlocal saved, cost
        began = time.monotonic()
        array.sync()
        folder.save_state(*generation.state())
        saved = time.monotonic()
        cost = saved - began

    less = "--chunk takes fewer prompt tokens at once, --window keeps fewer, and fewer prompts side by side"
    try:
        with phase("generating"), within_memory(generation.loaded.device, less):
            for tokens in generation:
                array.append(tokens.ids.ravel())
                progress(tokens, generation)
                asked, waited = stop(), time.monotonic() - saved
                due = asked or waited > max(SAVE_SECONDS, cost / SAVE_SHARE)
                saving = due and folder is not None and generation.steps > 0
                tell((saving, asked), generation.loaded.sharers)
                if asked and not generation.steps:
                    raise Interrupted("stopped in the prompt, before the first token; nothing was kept")
                if asked:
                    kept = "nothing was kept (no --output)"
                    if folder is not None:
                        save()
                        _write_texts(folder, array, generation)
                        kept = f"continue with: sinkctl stream --resume {folder.path}"
                    raise Interrupted(f"stopped after {generation.steps:,} tokens; {kept}")
                if saving:
                    save()
            result = result_of(generation)
        ids = np.array(array.values().reshape(-1, generation.rows))
        if folder is not None:
            save_arrays(folder.path / "tokens.npy", [ids])
            _write_texts(folder, array, generation)
        return Generated(finished(result, folder, finish), ids)
    finally:
        array.close()
        if folder is not None and not resumable(folder.path):
            array.path.unlink(missing_ok=True)


def _write_texts(folder: RunFolder, array: GrowingArray, generation: GenerateRun) -> None:
    """The generated text of each row: generated.txt, or generated-0.txt, generated-1.txt, …"""
    ids = array.values().reshape(-1, generation.rows)
    for row in range(generation.rows):
        spelling = Spelling(generation.loaded.tokenizer, generation.settled.prompts[row][-PATIENCE:].tolist())
        own = ids[ids[:, row] != ENDED, row]
        parts = [spelling.add(*own[i : i + SPELT].tolist()) for i in range(0, len(own), SPELT)]
        name = "generated.txt" if generation.rows == 1 else f"generated-{row}.txt"
        folder.write_text(name, "".join([*parts, spelling.rest()]))
