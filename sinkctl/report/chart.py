"""Perplexity against position in a terminal: braille dots, 2 x 4 a cell, or plain ASCII."""

from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.text import Text

from sinkctl.report.axis import Axis, perplexity_axis, position_axis
from sinkctl.report.curves import Line, captions, contexts, last_position, lines
from sinkctl.report.printable import shorten, to_ascii, visible
from sinkctl.result.stream import PolicyScore

COLOURS = ("#2f8fd0", "#e0701a", "#12a07a", "#c86aa0", "#b98a00", "#8a8a8a")
MARKS, ASCII_MARKS = "●■▲◆✚", "ox#%&"
BRAILLE = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # bit of the dot at [column][row] of a cell
LABEL_WIDTH = 7
MARK_EVERY = 16  # cells between two marks of one line


@dataclass
class Raster:
    """Cells of the chart: what each shows, and in whose colour."""

    columns: int
    rows: int
    ascii_only: bool
    cells: dict[tuple[int, int], str] = field(default_factory=dict)
    owner: dict[tuple[int, int], int] = field(default_factory=dict)

    @property
    def fineness(self) -> tuple[int, int]:
        """Dots a cell, across and down."""
        return (1, 1) if self.ascii_only else (2, 4)

    def dot(self, x: int, y: int, number: int) -> None:
        across, down = self.fineness
        cell = (x // across, y // down)
        self.owner[cell] = number
        if self.ascii_only:
            self.cells[cell] = mark(number, True)
        else:
            before = ord(self.cells.get(cell, "\u2800"))
            self.cells[cell] = chr(before | BRAILLE[x % across][y % down])

    def stroke(self, start: tuple[int, int], end: tuple[int, int], number: int) -> None:
        steps = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
        for step in range(steps + 1):
            x, y = (round(a + (b - a) * step / steps) for a, b in zip(start, end, strict=True))
            self.dot(x, y, number)

    def place(self, x_share: float, y_share: float) -> tuple[int, int]:
        """The dot at these shares of the axes, (0, 0) being bottom left."""
        across, down = self.fineness
        return round(x_share * (self.columns * across - 1)), round((1 - y_share) * (self.rows * down - 1))


def mark(number: int, ascii_only: bool) -> str:
    """The sign that stands for line `number` where colour does not."""
    signs = ASCII_MARKS if ascii_only else MARKS
    return signs[number % len(signs)]


def unicode_chart(policies: list[PolicyScore], width: int = 80, height: int = 14, ascii_only: bool = False) -> Text:
    """`height` rows of plot, then axis and legend, none wider than `width` cells; empty without scores."""
    drawn = lines(policies)
    if not any(line.dots for line in drawn):
        return Text()
    columns = max(10, width - LABEL_WIDTH - 3)
    x = position_axis(last_position(policies), most=max(2, columns // 12))
    y = perplexity_axis((dot.y for line in drawn for dot in line.dots), most=max(2, height // 3))
    raster = Raster(columns, height, ascii_only)
    _draw(raster, drawn, x, y)
    guides = {raster.place(x.share(at), 0)[0] // raster.fineness[0]: f"context {at}" for at in contexts(policies)}
    rows = [Text("perplexity (log scale) against position in the text (tokens)", style="dim")]
    if guides:
        rows.append(Text(_spread(guides, columns, LABEL_WIDTH + 2), style="dim"))
    rows += _plot_rows(raster, y, set(guides))
    rows += _x_axis(raster, x)
    rows += _legend(drawn, width, ascii_only)
    for row in rows:
        row.rstrip()
    return Text("\n").join(rows)


def chart_caption(policies: list[PolicyScore]) -> str:
    """How the chart was drawn; it shows the moving mean only."""
    return " ".join(captions(policies)).replace("; faint: the points as measured", "")


def _draw(raster: Raster, drawn: list[Line], x: Axis, y: Axis) -> None:
    for number in reversed(range(len(drawn))):  # the first line is drawn last, on top
        dots = [raster.place(x.share(dot.x), y.share(dot.y)) for dot in drawn[number].dots]
        for start, end in zip(dots, dots[1:] or dots, strict=False):
            raster.stroke(start, end, number)
    across, down = raster.fineness
    for number in reversed(range(len(drawn))):
        dots = [raster.place(x.share(dot.x), y.share(dot.y)) for dot in drawn[number].dots]
        marked = MARK_EVERY * number // max(1, len(drawn))  # staggered: lines that run together keep their marks
        for i, (dot_x, dot_y) in enumerate(dots):
            cell = (dot_x // across, dot_y // down)
            if cell[0] >= marked or i == len(dots) - 1 == 0:
                raster.cells[cell], raster.owner[cell] = mark(number, raster.ascii_only), number
                marked = cell[0] + MARK_EVERY


def _plot_rows(raster: Raster, y: Axis, guides: set[int]) -> list[Text]:
    bar, tick, guide = ("|", "+", ":") if raster.ascii_only else ("│", "┤", "┊")
    labels = {raster.place(0, y.share(at))[1] // raster.fineness[1]: label for at, label in y.ticks}
    rows = []
    for row in range(raster.rows):
        label = labels.get(row)
        text = Text(f"{label or '':>{LABEL_WIDTH}} ", style="dim").append(tick if label else bar)
        text = Text.assemble(text)
        for column in range(raster.columns):
            cell = (column, row)
            if cell in raster.cells:
                text.append(raster.cells[cell], style=COLOURS[raster.owner[cell] % len(COLOURS)])
            else:
                text.append(guide if column in guides else " ", style="dim")
        rows.append(text)
    return rows


def _x_axis(raster: Raster, x: Axis) -> list[Text]:
    corner, bar, tick = ("+", "-", "+") if raster.ascii_only else ("└", "─", "┬")
    at = {raster.place(x.share(tick_at), 0)[0] // raster.fineness[0]: label for tick_at, label in x.ticks}
    rule = "".join(tick if column in at else bar for column in range(raster.columns))
    centred = {max(-1, column - len(label) // 2): label for column, label in at.items()}
    return [
        Text(f"{'':>{LABEL_WIDTH}} {corner}{rule}", style="dim"),
        Text(_spread(centred, raster.columns, LABEL_WIDTH + 2), style="dim"),
    ]


def _spread(labels: dict[int, str], columns: int, indent: int) -> str:
    """Labels at their columns, on one line; one that would touch the one before is left out."""
    text = ""
    for column, label in sorted(labels.items()):
        start = indent + min(column, columns - len(label))
        if start > len(text):
            text = text.ljust(start) + label
    return text


def _legend(drawn: list[Line], width: int, ascii_only: bool) -> list[Text]:
    rows, indent = [Text(" " * (LABEL_WIDTH + 2))], LABEL_WIDTH + 2
    for number, line in enumerate(drawn):
        label = to_ascii(visible(line.label)) if ascii_only else visible(line.label)
        label += "" if line.dots else " (no scores)"
        label = shorten(label, max(8, width - indent - 5), "..." if ascii_only else "…")
        if rows[-1].cell_len + 5 + cell_len(label) > width and rows[-1].plain.strip():
            rows.append(Text(" " * indent))
        style = COLOURS[number % len(COLOURS)]
        rows[-1].append(mark(number, ascii_only), style=style).append(f" {label}   ")
    return rows
