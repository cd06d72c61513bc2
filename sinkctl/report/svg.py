"""Line plots as SVG written by hand: no script, no font, no request; light and dark."""

from dataclasses import dataclass
from html import escape
from importlib.resources import files

from sinkctl.report.axis import Axis, Tick
from sinkctl.report.curves import Dot, Line
from sinkctl.report.printable import shorten, visible

COLOURS, DASHES, MARKS_A_LINE, LABEL_CELLS = 6, 5, 7, 24
WIDTH, LEFT, TOP, BOTTOM, LABEL_GAP = 900, 78, 26, 48, 17
LETTER = 8.5  # width kept for a letter: the font is the reader's, and some are wide
SHAPES = (
    "m-3.6 0a3.6 3.6 0 1 0 7.2 0a3.6 3.6 0 1 0-7.2 0z",
    "m-3.3-3.3h6.6v6.6h-6.6z",
    "m0-4.6 4.4 7.6h-8.8z",
    "m0-4.8 4.8 4.8-4.8 4.8-4.8-4.8z",
    "m-4.6-1.3h3.3v-3.3h2.6v3.3h3.3v2.6h-3.3v3.3h-2.6v-3.3h-3.3z",
)


@dataclass(frozen=True)
class Plot:
    """What a plot says, and where values land in it."""

    x: Axis
    y: Axis
    x_title: str
    y_title: str
    right: float
    bottom: float

    def across(self, value: float) -> float:
        return LEFT + self.x.share(value) * (self.right - LEFT)

    def down(self, value: float) -> float:
        return self.bottom - self.y.share(value) * (self.bottom - TOP)


def draw(
    lines: list[Line],
    x: Axis,
    y: Axis,
    *,
    name: str,
    titles: tuple[str, str, str],
    description: str,
    guides: list[Tick],
    height: int,
    width: int = WIDTH,
) -> str:
    """A whole <svg>: `titles` are those of the plot, the x axis and the y axis; `guides` are vertical lines."""
    room = 50 + LETTER * max((len(_label(line)) for line in lines), default=0)
    plot = Plot(x, y, titles[1], titles[2], width - room, height - BOTTOM)
    parts = [*_frame(plot), *_guides(plot, guides)]
    for number in reversed(range(len(lines))):  # the first line is drawn last, on top
        parts += _curve(plot, lines[number], number)
    parts += _labels(plot, lines)
    return "\n".join([*head(name, titles[0], description, width, height), *parts, "</svg>"])


def head(name: str, title: str, description: str, width: float, height: float, kind: str = "sinkctl-plot") -> list[str]:
    """The opening tag, what a screen reader says, and the style."""
    style = files("sinkctl.report").joinpath("plot.css").read_text(encoding="utf-8")
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="{kind}" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-labelledby="{name}-title {name}-description">',
        f'<title id="{name}-title">{_escaped(title)}</title>',
        f'<desc id="{name}-description">{_escaped(description)}</desc>',
        f"<style>\n{style}</style>",
    ]


def _frame(plot: Plot) -> list[str]:
    parts = []
    for at, label in plot.y.ticks:
        y = plot.down(at)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{plot.right:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4.5:.1f}" text-anchor="end">{label}</text>')
    for at, label in plot.x.ticks:
        x = plot.across(at)
        parts.append(f'<path class="frame" d="M{x:.1f} {plot.bottom}v5"/>')
        parts.append(f'<text x="{x:.1f}" y="{plot.bottom + 19}" text-anchor="middle">{label}</text>')
    parts.append(f'<path class="frame" d="M{LEFT} {TOP}V{plot.bottom}H{plot.right:.1f}"/>')
    middle_x, middle_y = (LEFT + plot.right) / 2, (TOP + plot.bottom) / 2
    parts.append(
        f'<text class="quiet" x="{middle_x:.1f}" y="{plot.bottom + 39}" text-anchor="middle">{plot.x_title}</text>'
    )
    parts.append(
        f'<text class="quiet" transform="translate(16 {middle_y:.1f}) rotate(-90)" text-anchor="middle">'
        f"{plot.y_title}</text>"
    )
    return parts


def _guides(plot: Plot, guides: list[Tick]) -> list[str]:
    parts, free = [], 0.0
    for at, label in guides:
        x, length = plot.across(at), LETTER * len(label)
        parts.append(f'<path class="guide" d="M{x:.1f} {TOP - 6}V{plot.bottom}"/>')
        start = min(x + 4, plot.right - length)
        if start >= free:
            parts.append(f'<text class="quiet" x="{start:.1f}" y="{TOP - 9}">{label}</text>')
            free = start + length + 8
    return parts


def _curve(plot: Plot, line: Line, number: int) -> list[str]:
    if not line.dots:
        return []
    colour, dash = f"colour{number % COLOURS}", f"dash{number % DASHES}"
    parts = [f'<g class="{colour}"><title>{_escaped(line.label)}</title>']
    if line.measured:
        parts.append(f'<path class="measured" d="{_path(plot, line.measured)}"/>')
    parts.append(f'<path class="line {dash}" d="{_path(plot, line.dots)}"/>')
    step = max(1, len(line.dots) // MARKS_A_LINE)
    first = number * step // 3 % step  # lines that run together do not hide each other's marks
    marks = "".join(
        f"M{plot.across(dot.x):.1f} {plot.down(dot.y):.1f}{_shape(number)}" for dot in line.dots[first::step]
    )
    parts.append(f'<path class="marks" d="{marks}"/></g>')
    return parts


def _labels(plot: Plot, lines: list[Line]) -> list[str]:
    """Each line's name beside its end, moved apart where ends meet, with a piece of the line in front."""
    wanted = [plot.down(line.dots[-1].y) if line.dots else plot.bottom for line in lines]
    parts = []
    for number, y in _apart(wanted, plot.bottom):
        x = plot.right + 8
        parts.append(
            f'<g class="colour{number % COLOURS}"><path class="line dash{number % DASHES}" d="M{x:.1f} {y:.1f}h26"/>'
            f'<path class="marks" d="M{x + 13:.1f} {y:.1f}{_shape(number)}"/>'
            f'<text x="{x + 32:.1f}" y="{y + 4.5:.1f}">{_escaped(_label(lines[number]))}</text></g>'
        )
    return parts


def _apart(wanted: list[float], bottom: float) -> list[tuple[int, float]]:
    """(line, y) from the top down, at least LABEL_GAP apart, none below `bottom` as long as there is room."""
    order = sorted(range(len(wanted)), key=lambda number: wanted[number])
    places: list[float] = []
    for number in order:
        places.append(max(wanted[number], places[-1] + LABEL_GAP) if places else wanted[number])
    limit = bottom
    for i in reversed(range(len(places))):
        places[i] = min(places[i], limit)
        limit = places[i] - LABEL_GAP
    return list(zip(order, places, strict=True))


def _path(plot: Plot, dots: list[Dot]) -> str:
    return "M" + "L".join(f"{plot.across(dot.x):.1f} {plot.down(dot.y):.1f}" for dot in dots)


def _shape(number: int) -> str:
    return SHAPES[number % len(SHAPES)]


def _label(line: Line) -> str:
    return shorten(visible(line.label), LABEL_CELLS) + ("" if line.dots else " (no scores)")


def _escaped(text: str) -> str:
    return escape(visible(text))
