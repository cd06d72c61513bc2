"""Defaults of one's own, in a settings file: flags and recipes go before them, what is built in comes after."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path
from time import strftime
from typing import Any

import typer

from sinkctl.errors import RecipeError, ResumeError, SinkctlError, UsageError
from sinkctl.launched import processes
from sinkctl.result.defaults import USED

VARIABLE = "SINKCTL_SETTINGS"
# What may be set → what that is, as `sinkctl settings` says it.
KNOWN = {
    "model": "the model or checkpoint of every command but bench, whose suites name theirs",
    "device": "auto, cpu, mps, cuda, cuda:N",
    "dtype": "auto, float32, bfloat16, float16, float64",
    "device-map": "auto, balanced, …: layers over GPUs, memory and disk",
    "max-memory": "what each may take of it: {cpu: 8GiB, 0: 20GiB}",
    "offload-folder": "where layers go that cannot be read from the checkpoint",
    "output": "a folder that runs without --output are kept in, each in a new one of its own",
}
LAYOUT = ("device-map", "max-memory", "offload-folder")


@contextmanager
def applied() -> Iterator[None]:
    """While a command runs: what is wrong with a setting names the file; a folder that was claimed for nothing goes."""
    USED.clear()
    settings.cache_clear()
    claimed: list[Path] = []
    _claimed.append(claimed)
    try:
        yield
    except SinkctlError as error:
        if found := _meant(str(error)):
            error.args = (f"{error} ({'; '.join(found)})",)
        raise
    finally:
        for folder in _claimed.pop():
            with suppress(OSError):  # it holds a run
                folder.rmdir()
        USED.clear()


_claimed: list[list[Path]] = []  # by the commands that run, one in all but tests


def _meant(said: str) -> list[str]:
    """The settings that a refusal is about, which it calls as the flags are."""
    values = {name: used.rpartition(", from ") for name, used in USED.items()}
    return [
        f"{name}: {USED[name]}"
        for name, (value, _, where) in values.items()
        if where not in said
        and (f"--{name} {value}" in said or f"leave --{name} out" in said or said.startswith(f"{value}: "))
    ]


def place() -> Path | None:
    """Where the file is, or would be; None where SINKCTL_SETTINGS is off."""
    named = os.environ.get(VARIABLE)
    if named == "off":
        return None
    return Path(named).expanduser() if named else Path(typer.get_app_dir("sinkctl")) / "settings.yaml"


@cache
def settings() -> dict[str, tuple[Any, str]]:
    """What the file sets: the value, and where it stands; RecipeError or UsageError in one line.

    Read once a command.
    """
    path = place()
    if path is None or not (path.exists() or os.environ.get(VARIABLE)):
        return {}
    from sinkctl.recipe.load import parsed, suggest

    try:
        data, lines = parsed(path)
    except OSError as error:
        raise UsageError(f"{VARIABLE}={path}: {error.strerror}; name a settings file, or off") from error
    if not isinstance(data, dict | None):
        raise RecipeError(f"{path}: a settings file is a mapping, such as `device: cpu`")
    found = {}
    for name in (keys[0] for keys in lines if len(keys) == 1):  # as written: `3` and `null` are no strings in `data`
        where = f"{path}:{lines[name,]}"
        if name not in KNOWN:
            raise RecipeError(f"{where}: no such setting {name!r}{suggest(name, list(KNOWN))}")
        value = data.get(name)
        if not value or not isinstance(value, dict if name == "max-memory" else str):
            raise RecipeError(f"{where}: {name}: {KNOWN[name]} (given: {value!r})")
        value = os.path.expanduser(value) if isinstance(value, str) else {str(key): value[key] for key in value}
        found[name] = value, where
    _check_values(found)
    return found


def _check_values(found: dict[str, tuple[Any, str]]) -> None:
    from sinkctl.cli.build import MODEL
    from sinkctl.recipe.load import put, validate

    data: dict[str, Any] = {"task": "stream"}
    words = {}
    for name, (value, where) in found.items():
        if name in MODEL:
            put(data, MODEL[name], value, where)
            words[tuple(MODEL[name].split("."))] = f"{where}: {name}"
    validate(data, flags=words)


def fill(data: dict[str, Any], fields: dict[str, str], task: str) -> dict[tuple[str, ...], str]:
    """Put into a recipe what neither it nor a flag says; where that stands, by the keys of its field."""
    from sinkctl.recipe.load import put

    found = settings()
    left = _left_out(data, fields, task, found)
    words: dict[tuple[str, ...], str] = {}
    for name, (value, where) in found.items():
        if name in left or name not in fields:
            continue
        put(data, fields[name], value, where)
        words[tuple(fields[name].split("."))] = f"{where}: {name}"
        USED[name] = f"{value}, from {where}"
    return words


def _left_out(data: dict[str, Any], fields: dict[str, str], task: str, found: dict[str, Any]) -> set[str]:
    """The settings that a recipe with its flags says itself, has no use for, or goes against."""
    left = {name for name, field in fields.items() if _has(data, tuple(field.split(".")))}
    if task == "bench" or data.get("checkpoints"):
        left.add("model")
    model = data.get("model") if isinstance(data.get("model"), dict) else {}
    told, shared = model.get("device_map") is not None, model.get("parallel") is not None
    elsewhere = task in ("convert", "bench") or shared or "device" in left or _of_gguf(data, model, left, found)
    if not told and (elsewhere or "device-map" in left or "device-map" not in found):
        left.update(LAYOUT)
    if (told or shared) and found.get("device", ("",))[0].startswith("cuda:"):  # these take more than one GPU
        left.add("device")
    return left


def _of_gguf(data: dict[str, Any], model: dict[str, Any], left: set[str], found: dict[str, Any]) -> bool:
    """Whether a model is a GGUF file, which is read whole."""
    from sinkctl.model.named import resolve

    named = data.get("checkpoints") or model.get("name") or found.get("model", ("demo",))[0]
    names = named if isinstance(named, list | tuple) else [named]
    return any(isinstance(name, str) and name and resolve(name).form == "gguf" for name in names)


def kept_in(output: Path | None, resume: Path | None, command: str, keeps: bool = True) -> Path | None:
    """--output; where it is not given, and the run `keeps` one, a new folder in the one that is set, if one is."""
    told = output is not None or resume is not None or not keeps
    if told or processes() > 1 or "output" not in (found := settings()):  # each process would name another
        return output
    value, where = found["output"]
    USED["output"] = f"{value}, from {where}"
    new = Path(value) / strftime(f"{command}-%Y%m%d-%H%M%S")
    missing = [folder for folder in new.parents if not folder.exists()]
    for number in count(1):
        folder = new if number == 1 else Path(f"{new}-{number}")
        try:
            folder.mkdir(parents=True)  # it is this run's from here on: of several, one alone makes it
        except FileExistsError:
            if new.parent.is_dir():
                continue
            raise UsageError(f"{where}: output: {value} is a file; name a folder") from None
        except NotADirectoryError:
            raise UsageError(f"{where}: output: {value} is a file; name a folder") from None
        except OSError as error:
            raise UsageError(
                f"{where}: output: {folder} cannot be created ({error.strerror}); name another folder"
            ) from error
        _claimed[-1].extend((folder, *missing))
        return folder


def recall(resume: Path) -> None:
    """What came from the file when the run that goes on was begun."""
    from sinkctl.result.store import CHECKPOINT, STATE, RunFolder

    with suppress(ResumeError):  # what is damaged is told where it is read
        before = RunFolder(resume).load_json(f"{STATE}/{CHECKPOINT}")
        USED.update(before.get("settings", {}) if isinstance(before, dict) else {})


def _has(data: Any, keys: tuple[str, ...]) -> bool:
    for key in keys:
        if not isinstance(data, dict) or key not in data:
            return not isinstance(data, dict | None)
        data = data[key]
    return True


def show_settings() -> None:
    """Where the settings file is, what it sets, and what it may."""
    path = place()
    if path is None:
        print(f"{VARIABLE}=off: no settings file is read")
        return
    found = settings()
    print(f"{path}{'' if path.exists() else ' (not there)'}")
    for name, (value, _) in found.items():
        print(f"  {name}: {value}")
    print(f"\nA flag goes before a recipe, a recipe before this file. {VARIABLE} names another file, or off.")
    print("It may set:")
    for name, words in KNOWN.items():
        print(f"  {name}: {words}")
