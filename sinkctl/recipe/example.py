"""What would have been right in the place of a wrong value of a recipe, written as YAML."""

from contextlib import suppress
from typing import Any, get_args

import yaml
from pydantic import BaseModel

from sinkctl.errors import UsageError

SHOWN = 5  # settings that are listed


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The settings that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in models_in(argument)]


def models_at(path: tuple[str | int, ...], recipe: type[BaseModel]) -> list[type[BaseModel]]:
    """The same of the field at `path` of a recipe, whose numbers are places in lists."""
    models = [recipe]
    for part in (part for part in path if isinstance(part, str)):
        models = [
            m for each in models if part in each.model_fields for m in models_in(each.model_fields[part].annotation)
        ]
    return models


def of_a_kind(given: Any, models: list[type[BaseModel]]) -> str:
    """Settings that say their kind: that which was named, the size that was written as flags write it, or the first."""
    from sinkctl.recipe.shorthand import KINDS, policy  # which names its own errors by `load`

    kinds = [model.model_fields["kind"].default for model in models]
    said = {"kind": given if isinstance(given, str) and given in kinds else kinds[0]}
    if isinstance(given, str) and given not in kinds and set(kinds) <= set(KINDS):
        with suppress(UsageError):
            said = policy(given)
    return _flow(said)


def settings_of(model: type[BaseModel]) -> str:
    """What may stand in a mapping, by name."""
    names = list(model.model_fields)
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")


def as_list(given: Any, models: list[type[BaseModel]]) -> str:
    """The value in a list of one, as settings where those are listed."""
    settings = any("kind" in model.model_fields for model in models) and not isinstance(given, dict)
    return f"[{of_a_kind(given, models)}]" if settings else _flow([given])


def _flow(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=1 << 16).strip()
