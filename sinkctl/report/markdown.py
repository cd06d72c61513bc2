"""Pages of Markdown from templates/*.md; no text from outside can add markup to them."""

import re
from functools import lru_cache
from pathlib import PurePath
from typing import Any

from sinkctl.report.parts import Table
from sinkctl.report.printable import as_yaml, visible
from sinkctl.result.numbers import count, short_count

MARKUP = re.compile(r"([\\`*_\[\]<>|~$&#])")


class Safe(str):
    """What is markup, or has none."""


def rendered(template: str, **words: Any) -> str:
    """The page; whatever stands in double braces is escaped, unless a filter of these says that it is safe."""
    return _environment().get_template(template).render(**words)


@lru_cache
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("sinkctl.report"),
        undefined=StrictUndefined,
        finalize=lambda said: said if isinstance(said, Safe) else escaped(str(said)),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "code": lambda text: Safe(", ".join(map(_code, [text] if isinstance(text, str) else text))),
        "fenced": _fenced, "table": _table, "plain": Safe, "quoted": lambda text: Safe(repr(text)), "own": own_name,
        "yaml": lambda data: Safe(as_yaml(data).rstrip("\n")), "count": count, "short": short_count,
    }  # fmt: skip
    return environment


def own_name(name: str) -> str:
    """A full path's last part; other names as they are."""
    return PurePath(name).name if PurePath(name).is_absolute() else name


def escaped(text: str) -> str:
    """Text from anywhere on one line, as itself."""
    return MARKUP.sub(r"\\\1", visible(text))


def _code(text: str) -> str:
    """Text from anywhere between backticks, within a line but not in a table."""
    shown, fence = visible(text), "`" * (_longest_run(text) + 1)
    pad = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def _fenced(text: str, language: str) -> Safe:
    """A block of code; whatever stands in the text does not end it."""
    fence = "`" * max(3, _longest_run(text) + 1)
    text = text.rstrip("\n")
    return Safe(f"{fence}{language}\n{text}\n{fence}\n")


def _table(table: Table) -> Safe:
    """The table over its legend, and an empty line for what follows; nothing where it has no rows."""
    if not table.rows:
        return Safe("")
    sides = ["---" if x in table.words else "---:" for x in range(len(table.columns))]
    head, *rows = (list(map(escaped, row)) for row in (table.columns, *table.rows))
    lines = [f"| {' | '.join(row)} |" for row in (head, sides, *rows)]
    legend = [f"{escaped('; '.join(table.legend))}."] if table.legend else []
    return Safe("\n\n".join(["\n".join(lines), *legend, ""]))


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
