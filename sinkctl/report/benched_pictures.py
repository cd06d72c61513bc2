"""The pictures of a benchmark before anything draws them: numbers against size, shares of the hardware's limit."""

from sinkctl.report.bars import Bars, bars
from sinkctl.report.benched import metric_words
from sinkctl.report.picture import LinePicture, bytes_scale, points, with_points
from sinkctl.result.bench import OURS, Row
from sinkctl.result.numbers import known

LOG_X, LOG_Y = 8, 50  # ratios from which an axis is logarithmic


def size_picture(title: str, rows: list[Row]) -> LinePicture | None:
    """Rows of one metric against the size that varies most, a line a way and size besides; None of a single size."""
    grown = _varying(rows)
    if not grown:
        return None
    over, scale, unit = grown[0], 1, rows[0].unit
    if unit == "bytes":
        scale, unit = bytes_scale(max(row.value for row in rows))
    places: dict[str, list[tuple[float, float]]] = {}
    for row in sorted((row for row in rows if over in row.size), key=lambda row: float(row.size[over])):
        others = [f"{name}={row.size[name]}" for name in grown[1:] if name in row.size]
        places.setdefault(", ".join([row.way, *others]), []).append((float(row.size[over]), row.value / scale))
    lines = {label: points(*zip(*line, strict=True)) for label, line in places.items()}
    lines = dict(sorted(lines.items(), key=lambda item: not item[0].startswith(OURS)))
    words = metric_words(rows[0])
    drawn = [place for line in lines.values() for place in line]
    return with_points(
        LinePicture(
            name="size", title=f"{title}: {words} by {over}", x_title=over, y_title=f"{words}, {unit}" if scale > 1
            else words, lines=lines, log_x=_spans([x for x, _ in drawn], LOG_X),
            log_y=_spans([y for _, y in drawn], LOG_Y),
        )
    )  # fmt: skip


def share_bars(title: str, rows: list[Row]) -> Bars | None:
    """Percent of the hardware's limit, a bar a size and way."""
    ways = sorted({row.way: None for row in rows}, key=lambda way: way != OURS)
    shown = [
        (f"{row.label} {row.way}, {row.floor_of}", 100 * row.share, ways.index(row.way))
        for row in rows
        if known(row.share)
    ]
    return bars(f"{title}: share of the hardware's limit", shown, lambda value: f"{value:.3g} %")


def _varying(rows: list[Row]) -> list[str]:
    """Sizes with several numbers, the one with most first."""
    values: dict[str, set[float]] = {}
    for row in rows:
        for name, value in row.size.items():
            if isinstance(value, int | float):
                values.setdefault(name, set()).add(float(value))
    return sorted((name for name, found in values.items() if len(found) > 1), key=lambda name: -len(values[name]))


def _spans(values: list[float], ratio: float) -> bool:
    return bool(values) and min(values) > 0 and max(values) >= ratio * min(values)
