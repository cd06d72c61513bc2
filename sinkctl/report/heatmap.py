"""Heatmaps as SVG written by hand: no script, light and dark, and small for thousands of cells.

Neighbours of one colour are one stroke, and all strokes of a colour one path. What a cell holds is said by one
transparent layer over all sheets, so that nine sheets of 5,120 cells stay near one megabyte.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from sinkctl.report import svg
from sinkctl.report.axis import Axis
from sinkctl.report.printable import shorten, visible
from sinkctl.result.numbers import known

# Perceptually uniform, monotone in lightness, and told apart by colour-blind readers ("mako" of seaborn 0.13);
# zero is near the paper: the order turns round in the dark.
STOPS = ("#def5e5", "#8bdab2", "#40b7ad", "#348fa7", "#37659e", "#413d7b", "#2e1e3b", "#0b0405")
LEVELS = 64
LABEL_CELLS, LETTER, LINE = 14, 7.5, 13
TOP, BOTTOM, RIGHT, CELL, TALLEST = 10, 44, 104, 26, 640
Cells = Sequence[Sequence[str | None]]


@dataclass(frozen=True)
class Grid:
    """Rows of cells; each sheet names the colour class of every cell, None where there is nothing."""

    name: str
    title: str
    description: str
    rows: list[str]
    columns: list[str]
    row_title: str
    column_title: str
    sheets: Sequence[Cells]
    hover: Sequence[Sequence[str]] = field(default=())  # what each cell says, or, with one text a row, each row
    width: int = 860


@dataclass(frozen=True)
class _Layout:
    left: float
    cell_width: float
    cell_height: float
    right: float
    bottom: float


def level(share: float) -> int:
    """The colour, 0 to LEVELS−1, of a share of the scale."""
    return min(LEVELS - 1, max(0, int(share * LEVELS)))


def colour(number: int) -> str:
    """The colour of a level on light paper."""
    at = number / (LEVELS - 1) * (len(STOPS) - 1)
    first = min(int(at), len(STOPS) - 2)
    low, high = (tuple(int(stop[i : i + 2], 16) for i in (1, 3, 5)) for stop in STOPS[first : first + 2])
    return "#" + "".join(f"{round(a + (b - a) * (at - first)):02x}" for a, b in zip(low, high, strict=True))


def shaded(values: Sequence[Sequence[float | None]], scale: Axis) -> Cells:
    """Colour classes of values; what is missing or not finite gets none."""
    return [[f"h{level(scale.share(value))}" if known(value) else None for value in row] for row in values]


def heatmap(grid: Grid, scale: Axis, scale_title: str) -> str:
    """A whole <svg> with a colour bar; sheets are <g class="sheet sheet0"> and so on, each hiding the others."""
    layout = _layout(grid)
    height = max(layout.bottom, TOP + 110)
    return "\n".join([*_grid(grid, layout, height + BOTTOM), *_bar(layout, scale, scale_title), "</svg>"])


def class_map(grid: Grid, legend: dict[str, str]) -> str:
    """A whole <svg> of cells in a few classes; `legend` says what each class is."""
    layout = _layout(grid)
    height = max(layout.bottom, TOP + 22.0 * len(legend)) + BOTTOM
    parts = []
    for number, (name, words) in enumerate(legend.items()):
        y = TOP + 22 * number
        parts.append(f'<path class="{name}" d="M{layout.right + 18:.1f} {y + 8}h16" stroke-width="16"/>')
        parts.append(f'<text x="{layout.right + 42:.1f}" y="{y + 12.5}">{_escaped(words)}</text>')
    return "\n".join([*_grid(grid, layout, height, room=70), *parts, "</svg>"])


def palette() -> str:
    """The colours as CSS."""
    light = "".join(f".h{i}{{stroke:{colour(i)}}}" for i in range(LEVELS))
    dark = "".join(f".h{i}{{stroke:{colour(LEVELS - 1 - i)}}}" for i in range(LEVELS))
    return f"{light}\n@media screen and (prefers-color-scheme:dark){{{dark}}}"


def _layout(grid: Grid) -> _Layout:
    left = 32 + LETTER * max((len(_label(row)) for row in grid.rows), default=1)
    across, down = max(1, len(grid.columns)), max(1, len(grid.rows))
    cell_width = min(CELL * 1.6, (grid.width - left - RIGHT) / across)
    cell_height = min(CELL, max(cell_width, LINE), TALLEST / down)
    return _Layout(left, cell_width, cell_height, left + across * cell_width, TOP + down * cell_height)


def _grid(grid: Grid, layout: _Layout, height: float, room: float = 0) -> list[str]:
    width = layout.right + RIGHT + room
    head = svg.head(grid.name, grid.title, grid.description, width, height, "sinkctl-plot sinkctl-heat")
    head[0] = head[0].replace("<svg ", f'<svg style="max-width:{width:.0f}px" ', 1)
    parts = [*head, f"<style>{palette()}</style>", *_labels(grid, layout)]
    place = f"{layout.left:.2f} {TOP}) scale({layout.cell_width:.4f} {layout.cell_height:.4f}"
    parts.append(f'<g class="cells" transform="translate({place})">')
    for number, cells in enumerate(grid.sheets):
        parts += [f'<g class="sheet sheet{number}" transform="translate(0 .5)">', *_strokes(cells), "</g>"]
    parts += [*_hover(grid), "</g>"]
    right, bottom = layout.right - layout.left, layout.bottom - TOP
    parts.append(f'<path class="frame" d="M{layout.left:.2f} {TOP}h{right:.2f}v{bottom:.2f}h{-right:.2f}z"/>')
    return parts


def _strokes(cells: Cells) -> list[str]:
    paths: dict[str, list[str]] = {}
    for y, row in enumerate(cells):
        start = 0
        for x in range(1, len(row) + 1):
            if x == len(row) or row[x] != row[start]:
                if row[start] is not None:
                    paths.setdefault(row[start], []).append(f"M{start} {y}h{x - start}")
                start = x
    return [f'<path class="{name}" d="{"".join(strokes)}"/>' for name, strokes in sorted(paths.items())]


def _hover(grid: Grid) -> list[str]:
    parts = []
    for y, texts in enumerate(grid.hover):
        wide = len(grid.columns) if len(texts) == 1 else 1
        for x, text in enumerate(texts):
            parts.append(f'<path d="M{x} {y}h{wide}v1h-{wide}z"><title>{_escaped(text)}</title></path>')
    return ['<g class="over">', *parts, "</g>"] if parts else []


def _labels(grid: Grid, layout: _Layout) -> list[str]:
    parts = []
    every = max(1, round(LINE / layout.cell_height + 0.49))
    for y in range(0, len(grid.rows), every):
        at = TOP + (y + 0.5) * layout.cell_height + 4.5
        parts.append(
            f'<text x="{layout.left - 6:.1f}" y="{at:.1f}" text-anchor="end">{_escaped(_label(grid.rows[y]))}</text>'
        )
    longest = max((len(label) for label in grid.columns), default=1)
    every = max(1, round((LETTER * longest + 10) / layout.cell_width + 0.49))
    for x in range(0, len(grid.columns), every):
        at = layout.left + (x + 0.5) * layout.cell_width
        parts.append(
            f'<text x="{at:.1f}" y="{layout.bottom + 17:.1f}" text-anchor="middle">{_escaped(grid.columns[x])}</text>'
        )
    x, y = (layout.left + layout.right) / 2, (TOP + layout.bottom) / 2
    parts.append(
        f'<text class="quiet" x="{x:.1f}" y="{layout.bottom + 36:.1f}" text-anchor="middle">{grid.column_title}</text>'
    )
    turned = f"translate(14 {y:.1f}) rotate(-90)"
    parts.append(f'<text class="quiet" transform="{turned}" text-anchor="middle">{grid.row_title}</text>')
    return parts


def _bar(layout: _Layout, scale: Axis, title: str) -> list[str]:
    x, top, bottom = layout.right + 20, TOP + 18, max(layout.bottom, TOP + 110)
    one = (bottom - top) / LEVELS
    parts = [f'<text class="quiet" x="{x:.1f}" y="{TOP + 8}">{title}</text>']
    parts.append(f'<g transform="translate({x:.1f} {bottom:.2f}) scale(14 {-one:.4f}) translate(0 .5)">')
    parts += [*_strokes([[f"h{i}"] for i in range(LEVELS)]), "</g>"]
    for at, label in scale.ticks:
        y = bottom - scale.share(at) * (bottom - top)
        parts.append(f'<path class="frame" d="M{x + 14:.1f} {y:.1f}h4"/>')
        parts.append(f'<text x="{x + 21:.1f}" y="{y + 4.5:.1f}">{label}</text>')
    return parts


def _label(text: str) -> str:
    return shorten(visible(text), LABEL_CELLS)


def _escaped(text: str) -> str:
    return escape(visible(text))
