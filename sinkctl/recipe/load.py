"""YAML and `key=value` → a validated recipe; whatever is wrong is named with its file, line and field."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from sinkctl.errors import RecipeError, UsageError
from sinkctl.recipe.example import as_list, models_at, models_in, of_a_kind, settings_of
from sinkctl.recipe.named import find
from sinkctl.recipe.schema import RECIPES, Recipe
from sinkctl.recipe.yaml12 import Keys, parse, parse_value
from sinkctl.sinks import SINKS
from sinkctl.small_file import text_of

BASE = "base"  # of a file: the recipe that it changes; no field, as what is validated is whole


def read(path: str | Path) -> tuple[dict[str, Any], dict[Keys, int]]:
    """A recipe file as plain data, with the line of every value."""
    try:
        data, lines = parsed(path)
    except OSError as error:
        raise RecipeError(
            f"{path}: cannot be read ({error.strerror}); `sinkctl recipe ls` lists the built-in recipes"
        ) from error
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: a recipe is a mapping that starts with `task: {next(iter(RECIPES))}`")
    return _on_its_base(data, f"{path}:{lines.get((BASE,), 1)}"), lines


def parsed(path: str | Path) -> tuple[Any, dict[Keys, int]]:
    """A YAML file as plain data, with the line of every value; OSError, or RecipeError with the line that is wrong."""
    try:
        return parse(text_of(path))
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f"{error.problem_mark.line + 1}: "
        raise RecipeError(f"{path}:{line} {error.problem}".replace(":  ", ": ")) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(f"{path}: {' '.join(str(error).split())[:200]}") from error


def _on_its_base(data: dict[str, Any], where: str) -> dict[str, Any]:
    """The recipe that `base` names, with what this one says over it, mapping by mapping."""
    if BASE not in data:
        return data
    if not isinstance(name := data.pop(BASE), str):
        raise RecipeError(f"{where}: {BASE}: name a recipe, such as convert/gate, or a file (given: {name!r})")
    try:
        below, _ = parse(text_of(find(name)))
    except (UsageError, OSError, ValueError, yaml.YAMLError) as error:
        raise RecipeError(f"{where}: {BASE}: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(below, dict) or BASE in below:
        raise RecipeError(f"{where}: {BASE}: {name} is no whole recipe; name one without a {BASE} of its own")
    return _over(below, data)


def _over(below: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    both = {key for key in below.keys() & data.keys() if isinstance(below[key], dict) and isinstance(data[key], dict)}
    return below | data | {key: _over(below[key], data[key]) for key in both}


def override(data: dict[str, Any], assignments: Sequence[str]) -> None:
    """Apply `key=value` with dotted keys and list indices to plain data; new keys are validated later."""
    for assignment in assignments:
        flag = f"--set {assignment}"
        put(data, *assigned(assignment, flag, "policies.0.window=512"), flag)


def assigned(text: str, flag: str, example: str) -> tuple[str, Any]:
    """`key=value` with the value as YAML; RecipeError, beginning with `flag`, for what is none."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise RecipeError(f"{flag}: write key=value, such as {example}")
    try:
        return key, parse_value(value)
    except (yaml.YAMLError, ValueError) as error:
        raise RecipeError(f"{flag}: {value!r} is no YAML value") from error


def put(data: dict[str, Any], key: str, value: Any, source: str) -> None:
    """Set a dotted key, making mappings on the way; RecipeError, naming `source`, where that cannot be."""
    target: Any = data
    *parents, last = key.split(".")
    for part in parents:
        if isinstance(target, dict):
            if target.get(part) is None:
                target[part] = {}
            target = target[part]
        else:
            target = target[_index(target, part, source)]
    if isinstance(target, dict):
        target[last] = value
    else:
        target[_index(target, last, source)] = value


def _index(target: Any, part: str, source: str) -> int:
    if not isinstance(target, list):
        raise RecipeError(f"{source}: {part} lies inside a plain value")
    if not part.isdecimal() or int(part) >= len(target):
        raise RecipeError(f"{source}: {part} is not an index of a list of {len(target)}")
    return int(part)


def validate(
    data: dict[str, Any], source: str = "recipe", lines: dict[Keys, int] | None = None,
    flags: dict[Keys, str] | None = None,
) -> Recipe:  # fmt: skip
    """Plain data → recipe; RecipeError has the first problem as `file:line: field: problem`, and all of them.

    What came from a flag is named by it: `flags` has it by the field's keys, `*` for any.
    """
    if not isinstance(data.get("task"), str) or data["task"] not in RECIPES:
        line = (lines or {}).get(("task",))
        hint = suggest(str(data["task"]), RECIPES) if "task" in data else f"; one of {', '.join(RECIPES)}"
        problem = f"no such task {data['task']!r}" if "task" in data else "missing"
        raise RecipeError(f"{source}{f':{line}' if line else ''}: task: {problem}{hint}")
    try:
        return TypeAdapter(Recipe).validate_python(data)
    except ValidationError as error:
        raise _recipe_error(error, data, source, lines or {}, flags or {}) from error


def load(path: str | Path, assignments: Sequence[str] = ()) -> Recipe:
    """Read, override and validate a recipe file."""
    data, lines = read(path)
    override(data, assignments)
    return validate(data, str(path), lines)


def _recipe_error(
    error: ValidationError, data: dict[str, Any], source: str, lines: dict[Keys, int], flags: dict[Keys, str]
) -> RecipeError:  # fmt: skip
    """Its message is the first problem, an unknown field before what may follow from it; all stand in file order."""
    at: dict[Keys, list[Any]] = {}  # of a union every member complains
    for problem in sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden"):
        at.setdefault(_path(_inside(problem["loc"], data), data, problem["type"]), []).append(problem)
    # What is wrong inside a value says more than that the other members of its union are something else.
    inner = {path[:end] for path in at for end in range(1, len(path))}
    said = {path: _describe(path, at[path], data, source, lines, flags) for path in at if path not in inner}
    return RecipeError(
        next(iter(said.values())), [said[path] for path in sorted(said, key=lambda p: _line(p, lines) or 0)]
    )


def _line(path: Keys, lines: dict[Keys, int]) -> int | None:
    """Where a value stands, or else the nearest around it."""
    return next((lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in lines), None)


def _describe(
    path: Keys, problems: list[Any], data: dict[str, Any], source: str, lines: dict[Keys, int], flags: dict[Keys, str]
) -> str:  # fmt: skip
    """What is wrong with one value, in one line."""
    problem = problems[0]
    line = _line(path, lines)
    where = f"{source}:{line}" if line else source
    name = ".".join(map(str, path))
    kind = _kind(path, data)
    if flag := _flag(problem, path, flags):
        where, name = flag, ""
    match problem["type"]:
        case "extra_forbidden" if flag and kind and not flag.startswith("--set"):
            said = f"{kind} has no such setting; it has {', '.join(_siblings(path, data)[1:]) or 'none'}"
        case "extra_forbidden":
            said = f"no such field{suggest(str(path[-1]), _siblings(path, data), f'{kind} has' if kind else 'one of')}"
        case "union_tag_invalid":
            kinds = [tag.strip(" '") for tag in problem["ctx"]["expected_tags"].split(",")]
            if data["task"] == "convert" and not data.get("scratch"):  # where others would be refused
                kinds = [kind for kind in kinds if not (kind in SINKS and SINKS[kind].from_scratch)]
            said = f"no such kind {problem['ctx']['tag']!r}{suggest(problem['ctx']['tag'], kinds)}"
            said += f" One of {', '.join(kinds)}" if said.endswith("?") else ""
        case "model_attributes_type" | "union_tag_not_found":
            example = of_a_kind(problem["input"], models_at(path, RECIPES[data["task"]]))
            said = f"a mapping that says which `kind`, such as {example} (given: {problem['input']!r})"
        case "model_type":
            (model, *_) = models_at(path, RECIPES[data["task"]])
            said = f"a mapping of settings: {settings_of(model)} (given: {problem['input']!r})"
        case "tuple_type" | "list_type":
            said = (
                f"input should be a list, such as {as_list(problem['input'], models_at(path, RECIPES[data['task']]))}"
            )
        case "value_error":
            said = str(problem["ctx"]["error"])
        case "string_pattern_mismatch" if written := _description(path, data) or _description(path[:-1], data):
            said = f"{written.rstrip('.')} (given: {problem['input']!r})"
        case "missing":
            written = _description(path, data)
            said = "missing; add it" + (f" ({written.rstrip('.')})" if written else "")
        case _:  # a number, or 'auto'
            messages = dict.fromkeys(problem["msg"] for problem in problems)
            message = ", or ".join(text[0].lower() + text[1:] for text in messages)
            message = message.replace("valid tuple", "list").replace("tuple", "list")
            given = f"given: {problem['input']!r}"
            for_kind = f"for {kind}" if kind else ""
            beside = for_kind if flag else " ".join(filter(None, (given, for_kind)))
            said = message + (f" ({beside})" if beside else "")
    return ": ".join(filter(None, (where, name, said)))


def _flag(problem: Any, path: Keys, flags: dict[Keys, str]) -> str | None:
    """The flag that a value came from, as it was written; None where it came from none."""
    union = problem["type"] in ("union_tag_invalid", "union_tag_not_found")
    at = (*path, "kind") if union else path
    meant = [key for key in flags if len(key) <= len(at) and all(k in ("*", a) for k, a in zip(key, at, strict=False))]
    if not meant:
        return None
    flag, value = flags[max(meant, key=len)], problem["ctx"].get("tag") if union else problem["input"]
    return f"{flag} {value}" if isinstance(value, (str, int, float)) and "=" not in flag else flag


def _inside(location: tuple[str | int, ...], data: dict[str, Any]) -> tuple[str | int, ...]:
    """pydantic's location without the task in front, which one field is called as well."""
    return location[1:] if location[:1] == (data["task"],) else location


def _path(location: tuple[str | int, ...], data: Any, problem: str) -> Keys:
    """pydantic's location without the names of union members, which are no keys of the data; nor is what is missing."""
    path: list[str | int] = []
    if problem == "missing":
        return (*_path(location[:-1], data, ""), location[-1])
    for part in location:
        inside = part in data if isinstance(data, dict) else isinstance(data, (list, tuple)) and isinstance(part, int)
        if inside:
            path.append(part)
            data = data[part]
    return tuple(path)


def _kind(path: Keys, data: Any) -> str | None:
    """The kind of the settings that hold the last key of `path`, where they have one."""
    for part in path[:-1]:
        data = data[part]
    return data.get("kind") if isinstance(data, dict) else None


def _siblings(path: Keys, data: Any) -> list[str]:
    """The fields of the settings that hold the last key of `path`."""
    return [name for model in _holders(path, data) for name in model.model_fields]


def _description(path: Keys, data: Any) -> str | None:
    """Of a field; None of what lies inside one."""
    fields = [model.model_fields[path[-1]] for model in _holders(path, data) if path[-1] in model.model_fields]
    return fields[0].description if fields else None


def _holders(path: Keys, data: Any) -> list[type[BaseModel]]:
    models: list[type[BaseModel]] = [RECIPES[data["task"]]]
    for part in path[:-1]:
        data = data[part]
        if isinstance(part, str):
            models = [
                m
                for model in models
                if part in model.model_fields
                for m in models_in(model.model_fields[part].annotation)
            ]
    of_kind = [m for m in models if "kind" in m.model_fields and m.model_fields["kind"].default == data.get("kind")]
    return of_kind or models


def suggest(word: str, known: Sequence[str], among: str = "one of") -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; {among} {', '.join(known)}"
