"""Pieces of a Markdown page; no text from outside can add markup to it."""

import re

from sinkctl.report.printable import visible
from sinkctl.report.summary import ScoreTable

MARKUP = re.compile(r"([\\`*_\[\]<>|~$&#])")


def escaped(text: str) -> str:
    """Text from anywhere on one line, as itself."""
    return MARKUP.sub(r"\\\1", visible(text))


def code(text: str) -> str:
    """Text from anywhere between backticks, within a line but not in a table."""
    shown, fence = visible(text), "`" * (_longest_run(text) + 1)
    pad = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def fenced(language: str, text: str) -> list[str]:
    """A block of code; whatever stands in the text does not end it."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return [f"{fence}{language}", text.rstrip("\n"), fence, ""]


def table(scores: ScoreTable) -> list[str]:
    """The table over its legend; nothing where it has no rows."""
    if not scores.rows:
        return []
    sides = ["---" if x in scores.words else "---:" for x in range(len(scores.columns))]
    rows = [list(map(escaped, row)) for row in (scores.columns, *scores.rows)]
    lines = [f"| {' | '.join(row)} |" for row in (rows[0], sides, *rows[1:])]
    return [*lines, "", *([f"{escaped('; '.join(scores.legend))}.", ""] if scores.legend else [])]


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
