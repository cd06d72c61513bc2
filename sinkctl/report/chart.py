"""Perplexity against position in a terminal, drawn by uniplot; in signs where there is no colour."""

from dataclasses import replace

from rich.text import Text

from sinkctl.report.curves import captions, perplexity_picture
from sinkctl.report.parts import y_range
from sinkctl.report.printable import shorten, to_ascii, visible
from sinkctl.result.stream import PolicyScore

COLOURS = ((47, 143, 208), (224, 112, 26), (18, 160, 122), (200, 106, 160), (185, 138, 0), (138, 138, 138))
SIGNS = "ox#%&@"
FRAME = str.maketrans("┌┐└┘─│╭╮╯╰", "++++-|++++")
MARGIN = 14  # cells beside the picture: the frame, and the labels of the axis


def chart(
    policies: list[PolicyScore], width: int = 80, height: int = 14, ascii_only: bool = False, colour: bool = False
) -> Text:
    """`height` rows of plot, then axis and legend, none wider than `width` cells; empty without scores."""
    picture = perplexity_picture(policies)
    if picture is None:
        return Text()
    from uniplot import plot_to_string

    ellipsis = "..." if ascii_only else "…"
    shown = [to_ascii(visible(label)) if ascii_only else visible(label) for label in picture.lines]
    low, high = y_range(replace(picture, faint={}))
    # uniplot draws the last line on top: the first policy.
    drawn = list(picture.lines.values())[::-1]
    text = plot_to_string(
        xs=[[x for x, _ in line] for line in drawn],
        ys=[[y for _, y in line] for line in drawn],
        lines=True,
        y_as_log=True,
        y_min=low / 1.05,
        y_max=high * 1.05,
        x_min=0,
        x_max=max(point.end for policy in policies for point in policy.curve),
        x_gridlines=[at for at, _ in picture.guides],
        y_gridlines=[],
        width=max(10, width - MARGIN),
        height=height,
        color=[COLOURS[number % len(COLOURS)] for number in reversed(range(len(drawn)))] if colour else False,
        character_set="braille" if colour and not ascii_only else "ascii",
        force_ascii_characters=list(reversed([SIGNS[number % len(SIGNS)] for number in range(len(drawn))])),
    )
    rows = [Text("perplexity (log scale) against position in the text (tokens)", style="dim")]
    rows += [Text.from_ansi(line.translate(FRAME) if ascii_only else line) for line in text.rstrip("\n").split("\n")]
    legend = Text("")
    for number, label in enumerate(shown):
        sign = "━━" if colour and not ascii_only else SIGNS[number % len(SIGNS)]
        style = "#{:02x}{:02x}{:02x}".format(*COLOURS[number % len(COLOURS)]) if colour else ""
        legend.append(sign, style=style).append(f" {shorten(label, max(8, width - 8), ellipsis)}   ")
    rows.append(legend)
    if picture.guides:
        rows.append(Text("upright line: " + ", ".join(label for _, label in picture.guides), style="dim"))
    for row in rows:
        row.rstrip()
    return Text("\n").join(rows)


def chart_caption(policies: list[PolicyScore]) -> str:
    """How the chart was drawn; it shows the moving mean only."""
    return " ".join(captions(policies)).replace("; faint: the points as measured", "")
