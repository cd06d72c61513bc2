"""Defaults of one's own, in a settings file: flags and recipes go before them, what is built in comes after."""

import os
from itertools import count
from pathlib import Path
from time import strftime
from typing import Any

import typer

from sinkctl.errors import RecipeError, UsageError
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


def place() -> Path | None:
    """Where the file is, or would be; None where SINKCTL_SETTINGS is off."""
    named = os.environ.get(VARIABLE)
    if named == "off":
        return None
    return Path(named).expanduser() if named else Path(typer.get_app_dir("sinkctl")) / "settings.yaml"


def settings() -> dict[str, tuple[Any, str]]:
    """What the file sets: the value, and where it stands; RecipeError or UsageError in one line."""
    path = place()
    if path is None or not (path.exists() or VARIABLE in os.environ):
        return {}
    import yaml

    from sinkctl.recipe.load import suggest
    from sinkctl.recipe.yaml12 import parse

    try:
        data, lines = parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{VARIABLE}={path}: {error.strerror}; name a settings file, or off") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(f"{path}: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(data or {}, dict):
        raise RecipeError(f"{path}: a settings file is a mapping, such as `device: cpu`")
    found = {name: (value, f"{path}:{lines[name,]}") for name, value in (data or {}).items()}
    for name, (value, where) in found.items():
        if name not in KNOWN:
            raise RecipeError(f"{where}: no such setting {name!r}{suggest(name, list(KNOWN))}")
        if not (isinstance(value, str) or (name == "max-memory" and isinstance(value, dict))):
            raise RecipeError(f"{where}: {name}: {KNOWN[name]} (given: {value!r})")
    return found


def fill(data: dict[str, Any], fields: dict[str, str], task: str) -> dict[tuple[str, ...], str]:
    """Put into a recipe what neither it nor a flag says; where that stands, by the keys of its field."""
    from sinkctl.recipe.load import put

    words: dict[tuple[str, ...], str] = {}
    for name, (value, where) in settings().items():
        keys = tuple(fields.get(name, "").split("."))
        own = name == "model" and (task == "bench" or data.get("checkpoints"))
        if name not in fields or own or _has(data, keys):
            continue
        value = os.path.expanduser(value) if isinstance(value, str) else {str(key): size for key, size in value.items()}
        put(data, fields[name], value, where)
        words[keys] = f"{where}: {name}"
        USED[name] = f"{value}, from {where}"
    return words


def kept_in(output: Path | None, resume: Path | None, command: str, dry_run: bool = False) -> Path | None:
    """--output; where it is not given, a new folder in the one that is set, if one is."""
    USED.clear()
    told = output is not None or resume is not None or dry_run
    if told or processes() > 1 or "output" not in settings():  # of several processes each would name another
        return output
    value, where = settings()["output"]
    USED["output"] = f"{value}, from {where}"
    new = Path(value).expanduser() / strftime(f"{command}-%Y%m%d-%H%M%S")
    return next(path for n in count(1) if not (path := new if n == 1 else Path(f"{new}-{n}")).exists())


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
    print(f"{path}{'' if path.exists() else ' (not there)'}")
    for name, (value, _) in settings().items():
        print(f"  {name}: {value}")
    print(f"\nA flag goes before a recipe, a recipe before this file. {VARIABLE} names another file, or off.")
    print("It may set:")
    for name, words in KNOWN.items():
        print(f"  {name}: {words}")
