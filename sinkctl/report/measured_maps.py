"""The heatmaps of a sink measurement: α by layer and head, classes of heads, |h| by token and channel."""

import math

from sinkctl.report.axis import Axis, Tick, log_axis
from sinkctl.report.heatmap import Grid, class_map, heatmap, shaded
from sinkctl.report.measured import CLASSES, class_counts, class_name, in_order
from sinkctl.result.measure import HeadMap, InputScore, Surface
from sinkctl.result.numbers import figures, known
from sinkctl.result.words import quoted

ALPHA = Axis(0, 1, [Tick(at / 4, f"{at / 4:g}") for at in range(5)])  # one scale, so that maps compare
MOST_TOKENS, MOST_CHANNELS = 64, 128  # cells of a surface; more are joined by their largest
WIDTH, OVERVIEW_WIDTH = 860, 420
OTHER_CLASS = "class4"
Values = list[list[float | None]]


def alpha_map(score: InputScore, heads: HeadMap, name: str, hover: bool = True) -> str:
    """α of every key by layer and head, one sheet a key; with `hover`, each cell says its numbers."""
    return _alpha(score, heads, name, heads.alpha, _alpha_words(heads) if hover else (), WIDTH)


def first_token_map(score: InputScore, heads: HeadMap, name: str) -> str:
    """The same for the first token alone, small, to stand beside others."""
    return _alpha(score, heads, name, heads.alpha[:1], (), OVERVIEW_WIDTH)


def cells_of(heads: HeadMap) -> int:
    """How many cells one sheet has."""
    return sum(map(len, heads.classes))


def head_classes(score: InputScore, heads: HeadMap, name: str) -> str:
    """The class of every head, in colours."""
    order = in_order(class_name(name) for row in heads.classes for name in row if name)
    colours = {words: f"class{number}" for number, words in enumerate(CLASSES.values())}
    colours |= {words: OTHER_CLASS for words in order if words not in colours}
    grid = Grid(
        name=name,
        title=f"Classes of heads: {score.name}",
        description=", ".join(f"{heads_of} {words}" for words, heads_of in class_counts(score).items()),
        rows=[str(layer) for layer in heads.layers],
        columns=[str(head) for head in range(_across(heads))],
        row_title="layer",
        column_title="head",
        sheets=[[[colours[class_name(name)] if name else None for name in row] for row in heads.classes]],
        width=OVERVIEW_WIDTH,
    )
    legend: dict[str, str] = {}
    for words in order:
        legend[colours[words]] = ", ".join(filter(None, (legend.get(colours[words]), words)))
    return class_map(grid, legend)


def surface_map(surface: Surface, name: str) -> str | None:
    """|h| by token and channel on a logarithmic scale; None where no number is positive."""
    tokens, channels, values = pooled(surface)
    scale = surface_scale(values)
    if scale is None:
        return None
    logs = [[_log(value) for value in row] for row in values]
    grid = Grid(
        name=name,
        title=f"|h| after layer {surface.layer}, by token and channel",
        description="Each cell is the largest of its channels.",
        rows=tokens,
        columns=[str(channel) for channel in channels],
        row_title="token",
        column_title="channel",
        sheets=[shaded(logs, scale)],
        hover=[[_row_words(tokens[y], channels, row)] for y, row in enumerate(values)],
    )
    return heatmap(grid, scale, "|h|, log")


def surface_scale(values: Values) -> Axis | None:
    """A logarithmic axis over the numbers; at most six decades, as zeros and dust would take all the colours."""
    numbers = [value for row in values for value in row if known(value) and value > 0]
    if not numbers:
        return None
    high = max(numbers)
    return log_axis(max(min(numbers), high * 1e-6), high, 6)


def pooled(surface: Surface) -> tuple[list[str], list[int], Values]:
    """Labels of tokens, first channels, and values, joined by their largest until there are few enough to see."""
    down = max(1, math.ceil(len(surface.size) / MOST_TOKENS))
    across = max(1, math.ceil(len(surface.channels) / MOST_CHANNELS))
    values = []
    for top in range(0, len(surface.size), down):
        rows = surface.size[top : top + down]
        starts = range(0, len(surface.channels), across)
        values.append([_largest(value for row in rows for value in row[left : left + across]) for left in starts])
    tokens = [quoted(token) if down == 1 else f"{number * down}" for number, token in enumerate(surface.tokens[::down])]
    return tokens, surface.channels[::across], values


def _alpha(score: InputScore, heads: HeadMap, name: str, sheets: list[Values], hover, width: int) -> str:
    grid = Grid(
        name=name,
        title=f"α by layer and head: {score.name}",
        description="Mean attention to a token from every query that sees it, 0 to 1.",
        rows=[str(number) for number in heads.layers],
        columns=[str(head) for head in range(_across(heads))],
        row_title="layer",
        column_title="head",
        sheets=[shaded(values, ALPHA) for values in sheets],
        hover=hover,
        width=width,
    )
    return heatmap(grid, ALPHA, "α")


def _alpha_words(heads: HeadMap) -> list[list[str]]:
    """layer 3 head 2: 0.93 0.01 –, one number a key."""
    return [
        [
            f"layer {layer} head {head}: " + " ".join(_two_digits(sheet[row][head]) for sheet in heads.alpha)
            for head in range(len(heads.classes[row]))
        ]
        for row, layer in enumerate(heads.layers)
    ]


def _row_words(token: str, channels: list[int], row: list[float | None]) -> str:
    largest = _largest(row)
    return (
        f"{token}: –"
        if largest is None
        else f"{token}: largest {figures(largest)}, from channel {channels[row.index(largest)]}"
    )


def _across(heads: HeadMap) -> int:
    return max((len(row) for sheet in heads.alpha for row in sheet), default=0)


def _two_digits(value: float | None) -> str:
    return f"{value:.2f}" if known(value) else "–"


def _largest(values) -> float | None:
    return max((value for value in values if known(value)), default=None)


def _log(value: float | None) -> float | None:
    """Zero is drawn like the smallest."""
    if not known(value):
        return None
    return math.log(value) if value > 0 else -1e9
