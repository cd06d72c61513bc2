"""Text from outside, made safe to print: no control character reaches a terminal or a page."""

import unicodedata
from typing import Any

import yaml
from pydantic_core import to_jsonable_python
from rich.cells import cell_len, set_cell_size

_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"  # of category Cf too, but Persian, Indic scripts and emoji are spelled with them
_ASCII = str.maketrans(
    {"…": "...", "−": "-", "–": "-", "—": "-", "×": "x", "→": "->", "≤": "<=", "≥": ">=", "·": "|", "†": "+"}
    | {"∞": "inf", "∝": "~", "“": '"', "”": '"', "‘": "'", "’": "'"}
    | {"α": "alpha", "ε": "eps", "σ": "sigma", "‖": "||", "ₖ": "_k", "²": "^2"}
    | {chr(0x2080 + digit): str(digit) for digit in range(10)}  # ₀ … ₉
)


def visible(text: str) -> str:
    """`text` on one line, with control, direction and line-breaking characters written as escapes."""
    return "".join(_escape(c) if unicodedata.category(c) in _HIDDEN and c not in _JOINERS else c for c in text)


def to_ascii(text: str) -> str:
    """`text` for a terminal that shows ASCII alone: signs spelled out, everything else as escapes."""
    return text.translate(_ASCII).encode("ascii", "backslashreplace").decode("ascii")


def as_yaml(data: dict[str, Any]) -> str:
    """`data` as YAML that reads back as it is; where something in it would not show, all but ASCII as escapes."""
    plain = to_jsonable_python(data)
    shown = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
    hides = any(visible(line) != line for line in shown.split("\n"))
    return yaml.safe_dump(plain, sort_keys=False) if hides else shown


def shorten(text: str, cells: int, ellipsis: str = "…") -> str:
    """`text` cut to `cells` terminal cells; `ellipsis` marks the cut."""
    if cell_len(text) <= cells:
        return text
    return set_cell_size(text, max(0, cells - len(ellipsis))).rstrip() + ellipsis


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
