"""Flags → recipe: the file or the kept one first, then flags, then --set."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sinkctl.errors import UsageError

# Flag of the command line → field of the recipe, by task.
_COMMON = {
    "model": "model.name", "revision": "model.revision", "device": "model.device", "dtype": "model.dtype",
    "trust-remote-code": "model.trust_remote_code", "allow-pickle": "model.allow_pickle", "chunk": "chunk",
    "fail-on": "fail_on",
}  # fmt: skip
_SAMPLING = {name: f"sampling.{name.replace('-', '_')}" for name in ("temperature", "top-k", "top-p", "seed")}
FIELDS = {
    "stream": _COMMON | {
        "FILE": "text.files", "field": "text.field", "errors": "text.errors", "bos": "text.bos", "limit": "limit",
    },
    "generate": _COMMON | _SAMPLING | {
        "generate": "tokens", "prompt": "prompts", "prompt-file": "prompt_files", "field": "field", "bos": "bos",
        "chat": "chat", "system": "system",
    },
    "questions": _COMMON | {"questions": "questions", "bos": "bos", "limit": "limit"},
}  # fmt: skip
# Flags that say which task is meant.
TELLING = {"generate": ("generate", "prompt", "prompt-file", "chat", "system"), "questions": ("questions",)}


def build(
    flags: dict[str, Any], *, recipe: str | None, resume: Path | None, output: Path | None,
    policies: Sequence[str], sinks: int | None, window: str | None, assignments: Sequence[str],
):  # fmt: skip
    """The validated recipe of one of the tasks of `sinkctl stream`; UsageError or RecipeError says what is wrong."""
    from sinkctl.recipe.load import override, put, read, validate
    from sinkctl.recipe.named import find
    from sinkctl.result.store import RECIPE

    if resume is not None and (recipe is not None or output is not None):
        raise UsageError(
            "--resume takes the recipe and the folder of the run it continues; leave --recipe and --output out"
        )
    given = {name: value for name, value in flags.items() if value is not None}
    data, lines, source = {"task": _task(given)}, {}, "command line"
    if resume is not None and not (resume / RECIPE).exists():
        raise UsageError(f"--resume {resume}: no run folder ({RECIPE} is missing)")
    if resume is not None or recipe is not None:
        source = str(resume / RECIPE if resume is not None else find(recipe))
        data, lines = read(source)
    task = data.get("task")
    if isinstance(task, str) and task in FIELDS:
        for name, value in given.items():
            if name not in FIELDS[task]:
                raise UsageError(_misplaced(name, value, task))
            put(data, FIELDS[task][name], value, source)
        _size(data, policies, sinks, window)
    override(data, assignments)
    built = validate(data, source, lines)
    if built.task not in FIELDS:
        raise UsageError(f"{source}: a recipe for `sinkctl {built.task}`")
    return built


def _task(given: dict[str, Any]) -> str:
    return next((task for task, flags in TELLING.items() if any(flag in given for flag in flags)), "stream")


def _misplaced(name: str, value: Any, task: str) -> str:
    if name == "FILE":
        instead = "--prompt-file gives a prompt" if task == "generate" else "the text is in the questions' file"
        return f"{value[0]}: a file alone is scored, which --{task} does not; {instead}"
    other = next((task for task, flags in TELLING.items() if name in flags), None)
    if other is not None and task in TELLING:
        return f"--{name}: generation and questions are runs of their own; give one or the other"
    tasks = {"stream": "scoring", "generate": "generation (--generate, --chat)", "questions": "--questions"}
    belongs = next(what for other, what in tasks.items() if name in FIELDS[other])
    return f"--{name} is for {belongs}, not for {tasks[task]}"


def _size(data: dict[str, Any], policies: Sequence[str], sinks: int | None, window: str | None) -> None:
    """--policy, --sinks and --window into the recipe."""
    from sinkctl.recipe.shorthand import policy

    single = data["task"] == "generate"
    if policies:
        chosen = [policy(p) for p in policies]
        if single and len(chosen) > 1:
            raise UsageError(f"--policy {policies[1]}: text is generated under one policy; give one")
        data["policy" if single else "policies"] = chosen[0] if single else chosen
    sized = next((p for p in policies if "+" in p), None)
    if sized is not None and (sinks is not None or window is not None):
        raise UsageError(f"--policy {sized} says its own size; leave --sinks and --window out, or write --policy KIND")
    if single:
        chosen = [data.setdefault("policy", {"kind": "sink_window"})]
    else:
        chosen = data.setdefault("policies", [{"kind": "sink_window"}])
    settings = [p for p in chosen if isinstance(p, dict)] if isinstance(chosen, list) else []
    for flag, value, kinds in (
        ("sinks", sinks, ("sink_window", "recompute")),
        ("window", window and number(window), ("sink_window", "window", "recompute")),
    ):
        having = [each for each in settings if each.get("kind") in kinds]
        if value is not None and settings and not having:
            raise UsageError(f"--{flag} {value}: none of the policies has {flag}")
        for each in having if value is not None else ():
            each[flag] = value


def number(text: str | None) -> int | str | None:
    """`auto`, `endless` and the like stay as they are."""
    return int(text) if text is not None and text.isdecimal() else text
