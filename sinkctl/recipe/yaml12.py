"""YAML as people read it: safe, with the scalars of YAML 1.2, and with the line of every value."""

import re
from typing import Any

import yaml

Keys = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """PyYAML reads YAML 1.1: here `no` stays a word, 12:30 is no number, 1e-5 is one, and no key comes twice."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _starts in (
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("null", r"(?:null|Null|NULL|~|)$", ["n", "N", "~", ""]),
    ("int", r"[-+]?[0-9]+$", "-+0123456789"),
    ("float", r"(?:[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan)$", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_starts))
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))


class KeyProblem(yaml.MarkedYAMLError):
    """A mapping that names one key twice, or by something that is no word."""


def parse(text: str) -> tuple[Any, dict[Keys, int]]:
    """(data, 1-based line of every key and item by its path); raises yaml.YAMLError."""
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        lines: dict[Keys, int] = {}
        if root is None:
            return None, lines
        _collect(root, (), lines)
        return loader.construct_document(root), lines
    finally:
        loader.dispose()


def parse_value(text: str) -> Any:
    """One value of a `key=value` override."""
    return parse(text)[0]


def _collect(node: yaml.Node, path: Keys, lines: dict[Keys, int]) -> None:
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise KeyProblem(problem="a key must be a plain word", problem_mark=key.start_mark)
            if key.value in seen:
                raise KeyProblem(problem=f"{key.value} is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
            lines[(*path, key.value)] = key.start_mark.line + 1
            _collect(value, (*path, key.value), lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _collect(item, (*path, index), lines)
