"""A line plot before anything draws it, and how it becomes SVG; matplotlib draws the same ones."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from sinkctl.report import svg
from sinkctl.report.axis import Axis, Tick, log_axis, number_axis
from sinkctl.report.curves import Dot, Line
from sinkctl.result.numbers import known

Point = tuple[float, float]
WIDTH, HEIGHT = 560, 270


@dataclass(frozen=True)
class LinePicture:
    """Named lines over one pair of axes; lines without a point are not among them."""

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


def points(xs: Iterable[float | None], ys: Iterable[float | None], *, log_y: bool = False) -> list[Point]:
    """The pairs that are finite numbers and, on a logarithmic axis, positive."""
    pairs = [(x, y) for x, y in zip(xs, ys, strict=True) if known(x) and known(y)]
    return [(float(x), float(y)) for x, y in pairs if y > 0 or not log_y]


def with_points(picture: LinePicture) -> LinePicture | None:
    """`picture` without its empty lines; None where all of them are."""
    lines = {label: line for label, line in picture.lines.items() if line}
    return replace(picture, lines=lines) if lines else None


def y_ranges(pictures: Iterable[LinePicture]) -> dict[str, Point]:
    """The values that all pictures of one name span: drawn on that range, they compare."""
    ranges: dict[str, Point] = {}
    for picture in pictures:
        low, high = y_range(picture)
        before = ranges.get(picture.name, (low, high))
        ranges[picture.name] = min(low, before[0]), max(high, before[1])
    return ranges


def y_range(picture: LinePicture) -> Point:
    """The values the y axis spans: from 0, unless it is logarithmic or the picture says otherwise."""
    if picture.y_range is not None:
        return picture.y_range
    values = [y for line in picture.lines.values() for _, y in line]
    return (min(values), max(values)) if picture.log_y else (min(0.0, *values), max(values))


def axes_of(picture: LinePicture) -> tuple[Axis, Axis]:
    """The x and the y axis; places on a logarithmic one are natural logarithms."""
    xs = [x for line in picture.lines.values() for x, _ in line] + [at for at, _ in picture.guides]
    whole = all(x == int(x) for x in xs)
    low, high = y_range(picture)
    above = (low, high) if picture.log_y else (low, high + 0.03 * (high - low))
    return _axis((min(xs), max(xs)), picture.log_x, 6, whole), _axis(above, picture.log_y, 6, False)


def line_svg(picture: LinePicture, name: str) -> str:
    """The picture as <svg>; `name` keeps ids apart within one page."""
    lines = [
        Line(label, [Dot(_place(x, picture.log_x), _place(y, picture.log_y)) for x, y in line], [])
        for label, line in picture.lines.items()
    ]
    return svg.draw(
        lines,
        *axes_of(picture),
        name=name,
        titles=(picture.title, picture.x_title, picture.y_title),
        description=f"{picture.title}. {picture.caption}",
        guides=[Tick(_place(at, picture.log_x), label) for at, label in picture.guides],
        height=HEIGHT,
        width=WIDTH,
    )


def _axis(ends: Point, log: bool, most: int, whole: bool) -> Axis:
    return log_axis(*ends, most) if log else number_axis(*ends, most, whole)


def _place(value: float, log: bool) -> float:
    return math.log(value) if log else value
