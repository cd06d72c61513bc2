"""Heatmaps as tables of coloured cells, all of one size: readable by eye, pointer and screen reader, at any width."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sinkctl.report.measured import CLASSES, class_name, in_order
from sinkctl.report.printable import shorten, visible
from sinkctl.result.measure import HeadMap, InputScore, Surface
from sinkctl.result.numbers import figures, known
from sinkctl.result.words import quoted

# Perceptually uniform, monotone in lightness, and told apart by colour-blind readers ("mako" of seaborn 0.13);
# zero is near the paper: the order turns round in the dark.
STOPS = ("#def5e5", "#8bdab2", "#40b7ad", "#348fa7", "#37659e", "#413d7b", "#2e1e3b", "#0b0405")
CLASS_COLOURS = ("#0b5394", "#e8b33c", "#b9bec4", "#c2410c", "#767676")
LEVELS = 64
MOST_TOKENS, MOST_CHANNELS = 64, 128  # cells of a surface; more are joined by their largest
DECADES = 1e-6  # of the largest: zeros and dust below would take all the colours
OTHER_CLASS = len(CLASSES) - 1
Values = Sequence[Sequence[float | None]]


class Cell(NamedTuple):
    """Its colour classes, one a key (`a12` for the first, `b3` for the second, …), and what it says."""

    look: str
    said: str = ""


class Row(NamedTuple):
    label: str
    cells: list[Cell]
    said: str = ""


class CellMap(NamedTuple):
    """A heatmap; of several `keys` one is shown at a time."""

    title: str
    caption: str
    corner: str
    columns: list[str]
    rows: list[Row]
    legend: list[tuple[str, str]]
    keys: Sequence[str] = ()
    look: str = ""
    name: str = "alpha"
    down: str = "layer"
    across: str = "head"


def level(share: float) -> int:
    """The colour, 0 to LEVELS−1, of a share of the scale."""
    return min(LEVELS - 1, max(0, int(share * LEVELS)))


def colour(number: int) -> str:
    """The colour of a level on light paper."""
    at = number / (LEVELS - 1) * (len(STOPS) - 1)
    first = min(int(at), len(STOPS) - 2)
    low, high = (tuple(int(stop[i : i + 2], 16) for i in (1, 3, 5)) for stop in STOPS[first : first + 2])
    return "#" + "".join(f"{round(a + (b - a) * (at - first)):02x}" for a, b in zip(low, high, strict=True))


def rules(keys: int) -> str:
    """The colours as CSS: of the first key, and of every other once its button is pressed."""

    def turned(order: Iterable[int]) -> str:
        return "".join(f"--h{i}:{colour(at)};" for i, at in enumerate(order))

    parts = [f":root{{{turned(range(LEVELS))}}}"]
    parts.append(f"@media screen and (prefers-color-scheme:dark){{:root{{{turned(reversed(range(LEVELS)))}}}}}")
    parts += [f".a{i}{{background:var(--h{i})}}" for i in range(LEVELS)]
    parts += [f".c{i}{{background:{colour}}}" for i, colour in enumerate(CLASS_COLOURS)]
    for key in range(1, keys):
        chosen, mark = f".pick{key}:checked~figure ", prefix(key)
        parts += [
            f"{chosen}td{{background:none}}",
            *(f"{chosen}.{mark}{i}{{background:var(--h{i})}}" for i in range(LEVELS)),
        ]
    return "\n".join(parts)


def prefix(key: int) -> str:
    """The first letters of a key's classes: a, then kb, kc, …."""
    return "a" if key == 0 else f"k{chr(ord('a') + key)}"


def alpha_map(heads: HeadMap, title: str, keys: Sequence[str], hover: bool = True) -> CellMap:
    """α of every key by layer and head, on one scale from 0 to 1; with `hover`, each cell says its numbers."""
    rows = []
    for y, layer in enumerate(heads.layers):
        cells = []
        for x in range(max(len(sheet[y]) if y < len(sheet) else 0 for sheet in heads.alpha)):
            values = [sheet[y][x] if y < len(sheet) and x < len(sheet[y]) else None for sheet in heads.alpha]
            looks = [f"{prefix(k)}{level(value)}" for k, value in enumerate(values[: len(keys)]) if known(value)]
            said = " ".join(f"{value:.2f}" if known(value) else "–" for value in values)
            cells.append(Cell(" ".join(looks), f"layer {layer} head {x}: {said}" if hover else ""))
        rows.append(Row(str(layer), cells))
    caption = "Mean attention to the token from every query that sees it; rows are layers, columns heads."
    if hover:
        caption += " Pointing at a cell shows its value for each of these tokens, in their order."
    return CellMap(
        title, caption, "", _every(len(max((r.cells for r in rows), key=len, default=[]))), rows, SCALE, keys
    )


def class_map(heads: HeadMap) -> CellMap:
    """The class of every head, in colours that the legend names."""
    order = in_order(class_name(name) for row in heads.classes for name in row if name)
    places = class_places(order)
    rows = []
    for layer, row in zip(heads.layers, heads.classes, strict=True):
        named = [(x, class_name(name) if name else "") for x, name in enumerate(row)]
        cells = [Cell(f"c{places[n]}", f"layer {layer} head {x}: {n}") if n else Cell("") for x, n in named]
        rows.append(Row(str(layer), cells))
    columns = _every(max(map(len, heads.classes), default=0))
    legend = [(f"c{places[words]}", words) for words in order]
    return CellMap(
        "What each head does", "The rule is under “How it was run”.", "", columns, rows, legend, name="classes"
    )


def class_places(order: Iterable[str]) -> dict[str, int]:
    """The colour of every class: those that reports know, then one for all others."""
    known_ones = {words: number for number, words in enumerate(CLASSES.values())}
    return known_ones | {words: OTHER_CLASS for words in order if words not in known_ones}


def surface_map(surface: Surface) -> CellMap | None:
    """|h| by token and channel on a logarithmic scale; None where no number is positive."""
    tokens, channels, values = pooled(surface)
    ends = surface_ends(values)
    if ends is None:
        return None
    low, high = ends
    rows = []
    for token, row in zip(tokens, values, strict=True):
        cells = [Cell(f"a{level(_share(value, low, high))}" if known(value) else "") for value in row]
        rows.append(Row(shorten(visible(token), 14), cells, _row_words(token, channels, row)))
    legend = [(f"a{level(i / 4)}", figures(low * (high / low) ** (i / 4))) for i in range(5)]
    caption = (
        "Tokens of the first sample; each cell is the largest of its channels. Pointing at a row shows its largest."
    )
    title = f"|h| after layer {surface.layer}, by token and channel (log scale)"
    return CellMap(title, caption, "", [str(c) if i % 16 == 0 else "" for i, c in enumerate(channels)], rows, legend,
                   look="surface", name="surface", down="token", across="channel")  # fmt: skip


def surface_ends(values: Values) -> tuple[float, float] | None:
    """The least and largest number that the scale spans; None where none is positive."""
    found = [value for row in values for value in row if known(value) and value > 0]
    return (max(min(found), max(found) * DECADES), max(found)) if found else None


def pooled(surface: Surface) -> tuple[list[str], list[int], list[list[float | None]]]:
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


def cells_of(heads: HeadMap) -> int:
    """How many heads there are."""
    return sum(map(len, heads.classes))


def first_token_map(score: InputScore, label: str) -> CellMap:
    """α of the first token alone, small, to stand beside others."""
    return alpha_map(score.heads, label, [""], hover=False)._replace(caption="")


SCALE = [(f"a{level(i / 4)}", f"{i / 4:g}") for i in range(5)]


def _every(across: int) -> list[str]:
    return [str(head) if head % 4 == 0 else "" for head in range(across)]


def _share(value: float, low: float, high: float) -> float:
    """Where a value lies on the logarithmic scale; zero like the smallest."""
    return 0.0 if value <= low else math.log(value / low) / math.log(high / low) if high > low else 1.0


def _row_words(token: str, channels: list[int], row: Sequence[float | None]) -> str:
    largest = _largest(row)
    if largest is None:
        return f"{token}: –"
    return f"{token}: largest {figures(largest)}, from channel {channels[list(row).index(largest)]}"


def _largest(values: Iterable[Any]) -> float | None:
    return max((value for value in values if known(value)), default=None)
