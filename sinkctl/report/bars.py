"""Horizontal bars as SVG written by hand, from 0, each with its value at its end."""

from collections.abc import Callable
from typing import NamedTuple

from sinkctl.report.axis import number_axis
from sinkctl.report.parts import escaped
from sinkctl.report.printable import shorten, visible
from sinkctl.report.svg import COLOURS, LETTER, WIDTH, head
from sinkctl.result.numbers import known, perplexity

LABEL_CELLS, VALUE_ROOM, ROW, BAR, TOP, BOTTOM = 40, 80, 30, 18, 8, 48


class Bar(NamedTuple):
    """One row; without a value there is no bar, only a dash."""

    label: str
    value: float | None
    colour: int


def bars_svg(
    bars: list[Bar], *, name: str, title: str, x_title: str, say: Callable[[float | None], str] = perplexity
) -> str:
    """A whole <svg>; `name` keeps ids apart within one page; `say` writes a value."""
    labels = [shorten(visible(bar.label), LABEL_CELLS) for bar in bars]
    left, right = 20 + LETTER * max(map(len, labels), default=0), WIDTH - VALUE_ROOM
    bottom = TOP + ROW * len(bars)
    axis = number_axis(0.0, max((bar.value for bar in bars if known(bar.value)), default=1.0), most=6)
    parts = []
    for at, said in axis.ticks:
        x = left + axis.share(at) * (right - left)
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{bottom}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 19}" text-anchor="middle">{said}</text>')
    for number, (bar, label) in enumerate(zip(bars, labels, strict=True)):
        middle = TOP + ROW * (number + 0.5)
        length = axis.share(bar.value) * (right - left) if known(bar.value) else 0.0
        parts.append(f'<text x="{left - 8:.1f}" y="{middle + 4.5:.1f}" text-anchor="end">{escaped(label)}</text>')
        if length:
            shape = f"M{left:.1f} {middle - BAR / 2:.1f}h{length:.1f}v{BAR}h{-length:.1f}z"
            parts.append(f'<g class="colour{bar.colour % COLOURS}"><path class="marks" d="{shape}"/></g>')
        parts.append(f'<text x="{left + length + 8:.1f}" y="{middle + 4.5:.1f}">{escaped(say(bar.value))}</text>')
    parts.append(f'<path class="frame" d="M{left:.1f} {TOP}V{bottom}"/>')
    place = f'x="{(left + right) / 2:.1f}" y="{bottom + 39}" text-anchor="middle"'
    parts.append(f'<text class="quiet" {place}>{escaped(x_title)}</text>')
    said = "; ".join(f"{label}: {say(bar.value)}" for bar, label in zip(bars, labels, strict=True))
    return "\n".join([*head(name, title, said, WIDTH, bottom + BOTTOM), *parts, "</svg>"])
