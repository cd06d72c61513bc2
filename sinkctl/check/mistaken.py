"""What was given in place of something else, told by what it is: a recipe as a text, a text as a checkpoint, and so on.

Imports no torch, and reads no more of a file than tells what it is.
"""

import os
import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import Any, Literal, NamedTuple

from sinkctl.errors import RecipeError, UsageError
from sinkctl.formats import NEAR, format_of
from sinkctl.model.named import CONFIG, resolve
from sinkctl.recipe.load import BASE, read
from sinkctl.recipe.named import built_in
from sinkctl.recipe.schema import RECIPES
from sinkctl.result.store import RECIPE, RESULT, resumable
from sinkctl.text.source import compression

Wanted = Literal["a text", "a checkpoint", "a recipe", "a suite", "a run"]
COMMANDS = {"generate": "stream", "questions": "stream"}  # of the tasks that are not called as their command
YAML, JSON = (".yaml", ".yml"), ".json"
SHORT = 1 << 14  # bytes of YAML that are parsed in no time
TEXTS = (".txt", ".md", ".jsonl", ".log", ".csv", ".tsv", ".html", ".xml", ".rst", ".tex", ".srt")
BOM, END = rb"(?:\xef\xbb\xbf)?", rb"['\"]?[ \t]*(?:#.*)?\r?$"
SAYS_TASK = re.compile(rb"^task:[ \t]*['\"]?([a-z]+)" + END, re.MULTILINE)
SAYS_BASE = re.compile(rb"^base:[ \t]*['\"]?[\w./-]+" + END, re.MULTILINE)
BEGINS_SO = re.compile(BOM + rb"(?:(?:[ \t]*#.*|---[ \t]*)?\r?\n)*(?=task:|base:)")
KEY = re.compile(rb"^([a-z_]+):", re.MULTILINE)
MAY_SAY_TASK = re.compile(rb"^[^\w\n]*(?:task|base)\b", re.MULTILINE)
RESULT_BEGINS = re.compile(BOM + rb'\s*\{\s*"schema_version":')


class Given(NamedTuple):
    """What a name stands for."""

    fits: Sequence[Wanted]
    words: str
    instead: str  # what takes it


def check_meant(name: str, wanted: Wanted) -> None:
    """UsageError for what is there, and is something else than is `wanted`."""
    if _by_name(name, wanted):
        return
    given = None
    with suppress(OSError):  # who opens it says what is wrong
        of = _folder if os.path.isdir(name) else _file if os.path.isfile(name) else _named
        given = of(name)
    if given is None or wanted in given.fits:
        return
    readable = wanted == "a text" and os.path.isfile(name) and "a checkpoint" not in given.fits
    way = f"; as a text: sinkctl stream --set {quote(f'text.files=[{name}]')}" if readable else ""
    raise UsageError(f"{name}: is {given.words}, not {wanted}; {given.instead}{way}")


def check_task(task: Any, tasks: Collection[str], command: str, *, recipe: str | None, resume: Path | None) -> None:
    """UsageError for a recipe of another task than `command` has, which was given by name or is that of a kept run."""
    if not isinstance(task, str) or task not in RECIPES or task in tasks:
        return
    what = _of("recipe" if resume is None else "run", task)
    instead = _run(task, "--recipe", recipe) if resume is None else _run(task, "--resume", resume)
    raise UsageError(f"{recipe or resume}: is {what}, not of `sinkctl {command}`; {instead}")


def _by_name(name: str, wanted: Wanted) -> bool:
    """Whether it names what is wanted, whatever folder is called so too."""
    if wanted == "a checkpoint":
        return name == "demo"
    return wanted in ("a recipe", "a suite") and bool({name, f"bench/{name}"} & built_in().keys())


def _named(name: str) -> Given | None:
    if name == "demo":
        return Given(["a checkpoint"], "the built-in model", "--model demo takes it")
    if (path := built_in().get(name)) is None:
        return None
    task = _task(path) or ""
    return Given(["a recipe", "a suite"], _of("recipe", task), _run(task, "--recipe", name))


def _folder(name: str) -> Given | None:
    path, said = Path(name), quote(name)
    kept = (path / RESULT).exists()
    if (path / CONFIG).exists() or resolve(name).form == "gguf":
        return Given(["a checkpoint", *["a run"] * kept], "a checkpoint", f"--model {said} takes it")
    if (path / "adapter_config.json").exists():
        return Given(["a checkpoint"], "a PEFT adapter", f"--adapter {said} takes it")
    task = _task(path / RECIPE)
    if task is None or not (kept or resumable(path)):
        return None
    instead = f"`sinkctl show {said}` shows it" if kept else _run(task, "--resume", path)
    return Given(["a run"], _of("run", task), f"{instead}; its recipe is {path / RECIPE}")


def _file(name: str) -> Given | None:
    path, said = Path(name), quote(name)
    head = _head(path)
    if RESULT_BEGINS.match(head):
        return Given(["a run"], "the result of a run", f"`sinkctl show {said}` shows it")
    if (task := _task(path)) is not None:
        return Given(["a recipe", "a suite"], _of("recipe", task), _run(task, "--recipe", path))
    if format_of(head) == "gguf":
        return Given(["a checkpoint"], "a GGUF model", f"--model {said} takes it")
    if Path(path.stem if compression(path) else path.name).suffix.lower() in TEXTS:
        fits: list[Wanted] = ["a text", *["a recipe", "a suite"] * bool(MAY_SAY_TASK.search(head))]  # its reader tells
        return Given(fits, "a text", f"`sinkctl stream {said}` scores it, and --text takes it elsewhere")
    return None


def _task(path: Path) -> str | None:
    """Of a recipe in a file, sound or not; None where the file is no recipe, or not there."""
    if not path.is_file():
        return None
    head = _head(path)
    first = BEGINS_SO.match(head) is not None
    says = SAYS_TASK.search(head) if path.suffix in YAML or first else None
    task, keys = None if says is None else says[1].decode(), {key.decode() for key in KEY.findall(head)}
    based = SAYS_BASE.search(head) is not None and (path.suffix in YAML or first)
    if task not in RECIPES and len(head) < SHORT and (based or path.suffix in (*YAML, JSON)):  # in braces, say
        with suppress(RecipeError):
            data, _ = read(path)
            task, keys = data.get("task"), set(data)
    if not isinstance(task, str) or task not in RECIPES:
        return None
    known = keys & {*RECIPES[task].model_fields, BASE}
    return task if len(known) > len(keys - known) else None  # another program's


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(NEAR)


def _of(what: str, task: str) -> str:
    return f"a {what} of `sinkctl {COMMANDS.get(task, task)}`"


def _run(task: str, flag: str, source: str | Path) -> str:
    """The command that runs a recipe, or goes on with a run."""
    way = "run it with" if flag == "--recipe" else "go on with"
    return f"{way}: sinkctl {COMMANDS.get(task, task)} {flag} {quote(str(source))}"
