"""`measure`: what a checkpoint's sinks are."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sinkctl.api.progress import share_shown
from sinkctl.api.shared import finish_folder, parts_of, settings_of
from sinkctl.errors import UsageError
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.load import validate
from sinkctl.recipe.schema import MeasureRecipe
from sinkctl.tasks.measure import Outcome, Progress, run


def measure(
    checkpoints: str | Path | LoadedModel | Sequence[str | Path] | MeasureRecipe = "demo",
    *,
    output: str | Path | None = None,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
    **settings: Any,
) -> Outcome | None:
    """Where the sinks of one or more checkpoints are, how strong, what carries them, what they cost.

    `checkpoints` are folders, Hub ids, a loaded model, or a whole recipe; `settings` are the recipe's other fields
    (`epsilon`, `sinks`, …), those of `input` (`kinds`, `files`, `bos`, `samples`, `length`, `seed`) and of `model`
    (`device`, `dtype`, …). Returns the Result and every metric as an array by layer and head; of several
    processes in the first one alone. Raises SinkctlError.
    """
    loaded = checkpoints if isinstance(checkpoints, LoadedModel) else None
    if isinstance(checkpoints, MeasureRecipe):
        if settings:
            raise UsageError("a recipe says its own settings; change them with recipe.model_copy")
        recipe = checkpoints
    else:
        names = [checkpoints] if isinstance(checkpoints, (str, Path)) else [] if loaded else list(checkpoints)
        parts = parts_of(MeasureRecipe, ("input", "model"), settings)
        parts |= {"model": settings_of(loaded).model_dump()} if loaded else {}
        data = {"task": "measure", "checkpoints": [str(name) for name in names], **parts}
        recipe = validate(data | settings, "sinkctl.measure")
    with share_shown(progress) as told:
        return run(recipe, loaded, output=output, resume=resume, progress=told, stop=stop, finish=finish_folder)
