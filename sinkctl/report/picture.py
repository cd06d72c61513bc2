"""Line pictures before anything draws them, and the scales that let pictures of one kind be compared."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from sinkctl.result.numbers import known

Point = tuple[float, float]
SCALES = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "bytes"))


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


def points(xs: Iterable[float | None], ys: Iterable[float | None], *, log_y: bool = False) -> list[Point]:
    """The pairs that are finite numbers and, on a logarithmic axis, positive."""
    pairs = [(x, y) for x, y in zip(xs, ys, strict=True) if known(x) and known(y)]
    return [(float(x), float(y)) for x, y in pairs if y > 0 or not log_y]


def with_points(picture: LinePicture) -> LinePicture | None:
    """`picture` without its empty lines; None where all of them are."""
    lines = {label: line for label, line in picture.lines.items() if line}
    return replace(picture, lines=lines) if lines else None


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
