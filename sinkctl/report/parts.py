"""What reports are made of, before anything draws it: tables, line pictures, bars, and the sections that hold them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from sinkctl.result.numbers import NOTHING, Number, known, perplexity

Point = tuple[float, float]
Part = tuple[str, Any]  # what templates/page.html calls it, and the thing; one that is empty is left out
SCALES = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "bytes"))


class Section(NamedTuple):
    """Parts under a title; folded, they open on demand."""

    title: str
    parts: list[Part]
    fold: bool = False


class Table(NamedTuple):
    """Rows of text; `best` holds the (row, column) of the best numbers, `words` the columns of words.

    `narrow` stands in its place where not all of its columns fit a terminal.
    """

    columns: list[str]
    rows: list[list[str]]
    best: Iterable[tuple[int, int]] = ()
    legend: Sequence[str] = ()
    words: frozenset[int] = frozenset({0})
    narrow: "Table | None" = None

    def __bool__(self) -> bool:
        return bool(self.rows or self.legend)


def table_of(
    items: Iterable[Any],
    columns: dict[str, Callable[[Any], str]] | list[tuple[str, Callable[[Any], str]]],
    *legend: Any,
    words: Sequence[str] | None = None,
) -> Table:
    """A row an item, what every column's function says of it.

    Lines of `legend` that are false are left out, and all of them where there is no row. `words` names the columns of
    words, the first where nothing is said. Names from outside, which may be alike, come as a list.
    """
    pairs = list(columns.items()) if isinstance(columns, dict) else columns
    rows = [[say(item) for _, say in pairs] for item in items]
    shown = frozenset({0} if words is None else (x for x, (name, _) in enumerate(pairs) if name in words))
    return Table([name for name, _ in pairs], rows, (), [line for line in legend if line] if rows else [], shown)


def of(field: str, say: Callable[[Any], str] = str) -> Callable[[Any], str]:
    """What a column says of an item: its field, said so."""
    return lambda item: say(getattr(item, field))


def columns_of(table: Table, kept: Sequence[int]) -> Table:
    """`table` with these columns, in this order."""
    rows = [[row[x] for x in kept] for row in table.rows]
    words = frozenset(new for new, old in enumerate(kept) if old in table.words)
    best = {(y, kept.index(x)) for y, x in table.best if x in kept}
    return Table([table.columns[x] for x in kept], rows, best, table.legend, words)


def without_empty(table: Table) -> Table:
    """`table` without the columns that show nothing in any row; the first stays."""
    shown = [x for x in range(len(table.columns)) if not x or any(row[x] not in ("", NOTHING) for row in table.rows)]
    return columns_of(table, shown)


def transposed(table: Table, corner: str = "") -> Table:
    """Columns as rows under `corner`, and rows as columns."""
    turned = [list(line) for line in zip(table.columns, *table.rows, strict=True)]
    return Table([corner, *turned[0][1:]], turned[1:], (), table.legend)


@dataclass(frozen=True)
class LinePicture:
    """Named lines over one pair of axes; `faint` holds what a line is the moving mean of."""

    name: str
    title: str
    x_title: str
    y_title: str
    lines: dict[str, list[Point]]
    log_x: bool = False
    log_y: bool = False
    y_range: Point | None = None
    guides: tuple[tuple[float, str], ...] = ()
    caption: str = ""
    faint: dict[str, list[Point]] = field(default_factory=dict)
    wide: bool = False


def line_picture(
    name: str, title: str, x_title: str, y_title: str, lines: dict[str, Iterable[tuple[Number, Number]]], **settings
) -> LinePicture | None:
    """Of the points that are finite numbers and, on a logarithmic axis, positive; None without one."""
    above = 0.0 if settings.get("log_y") else float("-inf")
    found = {
        label: [(float(x), float(y)) for x, y in line if known(x) and known(y) and y > above]
        for label, line in lines.items()
    }
    found = {label: line for label, line in found.items() if line}
    return LinePicture(name, title, x_title, y_title, found, **settings) if found else None


def plots(*pictures: LinePicture | None) -> Part:
    """Those that show something."""
    return "plots", [picture for picture in pictures if picture is not None]


def on_one_scale(pictures: Iterable[LinePicture]) -> list[LinePicture]:
    """The same pictures, those of one name over the values that all of them span: so drawn, they compare."""
    pictures, ranges = list(pictures), {}
    for picture in pictures:
        low, high = y_range(picture)
        before = ranges.get(picture.name, (low, high))
        ranges[picture.name] = min(low, before[0]), max(high, before[1])
    return [replace(picture, y_range=ranges[picture.name]) for picture in pictures]


def y_range(picture: LinePicture) -> Point:
    """The values the y axis spans: from 0, unless it is logarithmic or the picture says otherwise."""
    if picture.y_range is not None:
        return picture.y_range
    values = [y for lines in (picture.lines, picture.faint) for line in lines.values() for _, y in line]
    return (min(values), max(values)) if picture.log_y else (min(0.0, *values), max(values))


def bytes_scale(most: float) -> tuple[float, str]:
    """The divisor and name of the unit in which so many bytes are drawn."""
    return next((pair for pair in SCALES if most >= pair[0]), (1, "bytes"))


class Bar(NamedTuple):
    """One row: its length in percent of the longest (none without a value), and what it says."""

    label: str
    share: float
    said: str
    colour: int


class Bars(NamedTuple):
    """Horizontal bars from 0, each with its value at its end."""

    title: str
    bars: list[Bar]


def bars(title: str, rows: Iterable[tuple[str, Number, int]], say: Callable[[Number], str] = perplexity) -> Bars | None:
    """Bars of (label, value, colour); None without rows."""
    rows = list(rows)
    most = max((value for _, value, _ in rows if known(value)), default=0.0) or 1.0
    found = [Bar(label, 100 * value / most if known(value) else 0.0, say(value), hue) for label, value, hue in rows]
    return Bars(title, found) if found else None


def spread(items: list, most: int) -> list:
    """At most `most` of the items, the first and the last among them."""
    if len(items) <= most:
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]
