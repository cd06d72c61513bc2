"""What the Python calls share: loading, settings out of keyword arguments, the report in a run folder."""

from collections.abc import Sequence
from typing import Any, get_args

from pydantic import ValidationError

from sinkctl.check import check
from sinkctl.errors import UsageError
from sinkctl.model.load import LoadedModel
from sinkctl.model.load import load as _load
from sinkctl.model.settings import ModelSettings
from sinkctl.recipe.schema import Recipe
from sinkctl.result.schema import Result
from sinkctl.result.store import ENVIRONMENT, RunFolder

Model = str | ModelSettings | LoadedModel


def load(name: str = "demo", **settings: Any) -> LoadedModel:
    """Load a checkpoint: a folder, a Hub id, or `demo`; settings as in a recipe's `model` (device, dtype, …)."""
    try:
        return _load(ModelSettings(name=name, **settings))
    except ValidationError as error:
        problem = error.errors()[0]
        raise UsageError(f"sinkctl.load: {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from error


def finish_folder(folder: RunFolder, result: Result) -> None:
    from sinkctl.report.html import html  # not imported where no folder is kept

    folder.write_text("report.html", html(result, folder.load_json(ENVIRONMENT)))


def checked(recipe: Recipe, model: Model, **folder: Any) -> LoadedModel:
    """The model, loaded once all else that can be known to be wrong is not."""
    loaded = model if isinstance(model, LoadedModel) else None
    check(recipe, loads=loaded is None, **folder)
    return loaded or _load(recipe.model)


def parts_of(recipe: type, names: Sequence[str], settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Take what belongs to these parts of a recipe out of `settings`; by part."""
    found = {}
    for name in names:
        annotation = recipe.model_fields[name].annotation
        fields = {field for model in get_args(annotation) or [annotation] for field in model.model_fields}
        found[name] = {field: settings.pop(field) for field in fields & set(settings)}
    return found


def settings_of(model: Model) -> ModelSettings:
    """What a recipe says of this model, so that the kept recipe runs again."""
    if isinstance(model, LoadedModel):
        own = model.settings or ModelSettings(name=model.name)
        dtype = str(model.dtype).removeprefix("torch.")
        return own.model_copy(update={"name": model.name, "device": str(model.device), "dtype": dtype})
    return ModelSettings(name=model) if isinstance(model, str) else model
