"""Flags → recipe: the file or the kept one first, then flags, then --set; what none says, as the settings have it."""

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from sinkctl.errors import UsageError

# Flag of the command line → field of the recipe.
MODEL = {
    "model": "model.name", "adapter": "model.adapters", "revision": "model.revision", "device": "model.device",
    "dtype": "model.dtype", "parallel": "model.parallel",
    "device-map": "model.device_map", "max-memory": "model.max_memory", "offload-folder": "model.offload_folder",
    "trust-remote-code": "model.trust_remote_code", "allow-pickle": "model.allow_pickle",
    "tokenizer": "model.tokenizer", "special-tokens": "model.special_tokens", "fail-on": "fail_on",
}  # fmt: skip
# Flags that name a file or folder → what that is meant to be. Of texts behind a flag only a folder is surely none.
MEANT = {"FILE": "a text", "CHECKPOINT": "a checkpoint", "model": "a checkpoint"}
FOLDER_MEANT = dict.fromkeys(("text", "train-text", "prompt-file"), "a text")


def build(
    flags: dict[str, Any], fields: dict[str, dict[str, str]], task: str, *, recipe: str | None, resume: Path | None,
    output: Path | None, assignments: Sequence[str], misplaced: Callable[[str, Any, str], str] | None = None,
    complete: Callable[[dict[str, Any]], None] = lambda data: None,
    named: dict[tuple[str, ...], str] | None = None,
):  # fmt: skip
    """The validated recipe of one of a command's tasks; UsageError or RecipeError says what is wrong.

    `fields` has, for every task of the command, its flags; `task` is what is begun without a recipe; `misplaced` says
    what is wrong with a flag of another task; `complete` puts in what no single field takes, and `named`
    has the flags of that by the keys of the fields.
    """
    from sinkctl.check.mistaken import check_meant
    from sinkctl.recipe.load import override, put, validate

    for name, wanted in _meant(flags):
        check_meant(name, wanted)
    if resume is not None and (recipe is not None or output is not None):
        raise UsageError(
            "--resume takes the recipe and the folder of the run it continues; leave --recipe and --output out"
        )
    data, lines, source = {"task": task}, {}, "command line"
    words: dict[tuple[str | int, ...], str] = dict(named or {})
    if resume is not None or recipe is not None:
        source, data, lines = begun_from(recipe, resume, fields, task)
    if resume is not None:
        from sinkctl.cli.settings import recall

        recall(resume)
    task = data.get("task")
    if isinstance(task, str) and task in fields:
        for name, value in flags.items():
            if value is None:
                continue
            if name not in fields[task]:
                raise UsageError(misplaced(name, value, task))
            put(data, fields[task][name], value, source)
            words[tuple(fields[task][name].split("."))] = name if name.isupper() else f"--{name}"
        complete(data)
    override(data, assignments)
    for assignment in assignments:
        keys = assignment.partition("=")[0].split(".")
        words[tuple(int(key) if key.isdecimal() else key for key in keys)] = f"--set {assignment}"
    if resume is None and isinstance(task, str) and task in fields:
        from sinkctl.cli.settings import fill

        words |= fill(data, fields[task], task)
    built = validate(data, source, lines, words)
    if built.task not in fields:  # by --set
        raise UsageError(f"--set task={built.task}: is of another command")
    return built


def begun_from(
    recipe: str | None, resume: Path | None, tasks: Collection[str], command: str
) -> tuple[str, dict[str, Any], dict[Any, int]]:
    """A recipe, given or of a run that goes on: its file, and that as `read`; UsageError for one of another command."""
    from sinkctl.check.mistaken import check_meant, check_task
    from sinkctl.recipe.load import read
    from sinkctl.recipe.named import find
    from sinkctl.result.store import RECIPE

    if resume is None:
        check_meant(recipe, "a recipe")
    elif not (resume / RECIPE).exists():
        raise UsageError(f"--resume {resume}: no run folder ({RECIPE} is missing)")
    source = str(find(recipe) if resume is None else resume / RECIPE)
    data, lines = read(source)
    check_task(data.get("task"), tasks, command, recipe=recipe, resume=resume)
    return source, data, lines


def _meant(flags: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The names behind flags, each with what it is meant to be."""
    for flag, wanted in (MEANT | FOLDER_MEANT).items():
        value = flags.get(flag)
        for name in [value] if isinstance(value, str) else value or ():
            if flag in MEANT or os.path.isdir(name):
                yield name, wanted


def number(text: str | None) -> int | str | None:
    """`auto`, `endless` and the like stay as they are."""
    return int(text) if text is not None and text.isdecimal() else text
