"""Which checkpoints are measured side by side, what they are called, and at which training step they were kept."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sinkctl.errors import UsageError
from sinkctl.model.named import CONFIG, absolute, resolve
from sinkctl.model.settings import ModelSettings
from sinkctl.recipe.schema import MeasureRecipe

# checkpoint-500, step1000, step=2000, run-step-3000, step1000-tokens4B; not step10k.
STEP = re.compile(r"(?<![a-z])(?:checkpoint|step)[-_=]?(\d+)(?![0-9a-z])", re.IGNORECASE)


class Checkpoint(NamedTuple):
    """One of the checkpoints of a run."""

    label: str  # short, and no other's
    settings: ModelSettings
    step: int | None  # where the name says one


def checkpoints(recipe: MeasureRecipe) -> list[Checkpoint]:
    """The recipe's checkpoints, folders of checkpoint-* opened; each with the adapters too, where there are any.

    UsageError where the same one is named twice.
    """
    names = recipe.checkpoints or (recipe.model.name,)
    if recipe.revisions:
        if len(names) > 1:
            raise UsageError(f"revisions are of one Hub id, and {len(names)} checkpoints are named; name one")
        if resolve(names[0]).local:
            raise UsageError(f"{names[0]}: revisions are of a Hub id (organisation/name), and this is none")
        found = [(names[0], revision) for revision in recipe.revisions]
    else:
        found = [(inner, recipe.model.revision) for name in names for inner in _opened(name)]
    labels = _labels([name for name, _ in found])
    labels = [f"{label}@{revision}" if revision else label for label, (_, revision) in zip(labels, found, strict=True)]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise UsageError(f"{twice}: named twice")
    settings = [recipe.model.model_copy(update={"name": name, "revision": revision}) for name, revision in found]
    steps = [_step(revision or _parts(name)[-1]) for name, revision in found]
    plain = [Checkpoint(*each) for each in zip(labels, settings, steps, strict=True)]
    return [each for one in plain for each in _with_and_without(one)] if recipe.model.adapters else plain


def _with_and_without(one: Checkpoint) -> list[Checkpoint]:
    """The checkpoint as it is, and with its adapters."""
    label = "+".join([one.label, *(_parts(name)[-1] for name in one.settings.adapters)])
    bare = one.settings.model_copy(update={"adapters": ()})
    return [one._replace(settings=bare), one._replace(label=label)]


def _opened(name: str) -> list[str]:
    """A folder of checkpoints as these, by their step; anything else as it is."""
    folder = Path(name)
    if resolve(name).form != "folder" or not folder.is_dir() or _is_checkpoint(folder):
        return [name]
    inner = [(step, path) for path in folder.iterdir() if (step := _step(path.name)) is not None]
    return [str(path) for _, path in sorted(inner) if _is_checkpoint(path)] or [name]


def _is_checkpoint(folder: Path) -> bool:
    """Or an adapter, which names its base."""
    return any((folder / name).exists() for name in (CONFIG, "adapter_config.json"))


def _labels(names: Sequence[str]) -> list[str]:
    """The last part of each name, and as many before it as tell it from the others."""
    parts = [_parts(name) for name in names]
    found = []
    for own in parts:
        others = [other for other in parts if other != own]
        count = next((n for n in range(1, len(own)) if not any(o[-n:] == own[-n:] for o in others)), len(own))
        found.append("/".join(own[-count:]))
    return found


def _parts(name: str) -> tuple[str, ...]:
    """Of a folder its full path, or else the names of a Hub id."""
    own = absolute(name)
    return Path(own).parts if Path(own).is_absolute() else tuple(part for part in name.split("/") if part)


def _step(text: str) -> int | None:
    found = STEP.search(text)
    return int(found[1]) if found else None
