"""`convert`: sinks designed in."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sinkctl.api.progress import share_shown
from sinkctl.api.shared import finish_folder, parts_of, settings_of
from sinkctl.errors import UsageError
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.load import validate
from sinkctl.recipe.schema import ConvertRecipe
from sinkctl.report.model_card import model_card
from sinkctl.result.schema import Result
from sinkctl.result.store import RunFolder
from sinkctl.tasks.convert import Outcome, Progress, run


def convert(
    checkpoint: str | Path | LoadedModel | ConvertRecipe = "demo",
    *,
    to: str = "sink_logit",
    output: str | Path,
    text: str | Path | Sequence[str | Path] = (),
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
    **settings: Any,
) -> Outcome | None:
    """Give a checkpoint a designed sink, and train it where `steps` says so; `output` loads with transformers.

    `checkpoint` is a folder, a Hub id, a loaded model, or a whole recipe; `text` calibrates and, further on, evaluates;
    `settings` are those of the mechanism (`start`, `bos`, …), of `calibration` (`window`, `samples`), of `text`
    (`field`, `errors`), of `model` (`device`, …), of `training` (`lr`, `batch`, …; all as `training={"length": …}`) and
    the recipe's other fields (`steps`, `store`, `evaluation`, …). `output` is a new folder, or with `resume` that of a
    stopped training. Returns the Result and the path, None in all but the first process. Raises SinkctlError.
    """
    loaded = checkpoint if isinstance(checkpoint, LoadedModel) else None
    if isinstance(checkpoint, ConvertRecipe):
        if settings or text or to != "sink_logit":
            raise UsageError("a recipe says its own mechanism and settings; change them with recipe.model_copy")
        recipe = checkpoint
    else:
        parts = parts_of(ConvertRecipe, ("sink", "text", "calibration", "model", "training"), settings)
        parts["sink"] = {"kind": to} | parts["sink"]
        parts["text"]["files"] = [str(file) for file in ([text] if isinstance(text, (str, Path)) else text)]
        parts["model"] = settings_of(loaded).model_dump() if loaded else {"name": str(checkpoint)} | parts["model"]
        parts["training"] |= dict(settings.pop("training", {}))
        recipe = validate({"task": "convert", **parts, **settings}, "sinkctl.convert")

    def finish(folder: RunFolder, result: Result) -> None:
        finish_folder(folder, result)
        folder.write_text("README.md", model_card(result, Path(output).name))

    with share_shown(progress) as told:
        return run(recipe, loaded, output=output, resume=resume, progress=told, stop=stop, finish=finish)
