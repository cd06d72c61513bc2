"""Heatmaps as tables of coloured cells, all of one size: readable by eye, pointer and screen reader, at any width."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from sinkctl.report.measured import CLASSES, in_order
from sinkctl.report.printable import shorten, visible
from sinkctl.result.measure import HeadMap, ImageMap, InputScore, MeasureDetail, Surface
from sinkctl.result.numbers import Number, figures, known, part
from sinkctl.result.words import quoted

# Perceptually uniform, monotone in lightness, and told apart by colour-blind readers ("mako" of seaborn 0.13);
# zero is near the paper: the order turns round in the dark.
STOPS = ("#def5e5", "#8bdab2", "#40b7ad", "#348fa7", "#37659e", "#413d7b", "#2e1e3b", "#0b0405")
CLASS_COLOURS = ("#0b5394", "#e8b33c", "#b9bec4", "#c2410c", "#767676")
LEVELS = 64
MOST_TOKENS, MOST_CHANNELS, MOST_SIDE = 64, 128, 48  # cells of a surface and of an image; more: joined by their largest
DECADES = 1e-6  # of the largest: zeros and dust below would take all the colours
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
    low, high = (bytes.fromhex(stop[1:]) for stop in STOPS[first : first + 2])
    return "#" + "".join(f"{round(a + (b - a) * (at - first)):02x}" for a, b in zip(low, high, strict=True))


def rules(keys: int) -> str:
    """The colours as CSS: of the first key, and of every other once its button is pressed."""

    def turned(order: Iterable[int]) -> str:
        return "".join(f"--h{i}:{colour(at)};" for i, at in enumerate(order))

    lines = [f":root{{{turned(range(LEVELS))}}}"]
    lines.append(f"@media screen and (prefers-color-scheme:dark){{:root{{{turned(reversed(range(LEVELS)))}}}}}")
    lines += [f".c{i}{{background:{hue}}}" for i, hue in enumerate(CLASS_COLOURS)]
    for key in range(keys):
        chosen = f".pick{key}:checked~figure " if key else ""
        lines += [f"{chosen}td{{background:none}}"] * bool(key)
        lines += [f"{chosen}.{prefix(key)}{i}{{background:var(--h{i})}}" for i in range(LEVELS)]
    return "\n".join(lines)


def prefix(key: int) -> str:
    """The first letters of a key's classes: a, then kb, kc, …."""
    return "a" if key == 0 else f"k{chr(ord('a') + key)}"


def alpha_map(heads: HeadMap, title: str, keys: Sequence[str], hover: bool = True) -> CellMap:
    """α of every key by layer and head, on one scale from 0 to 1; with `hover`, each cell says its numbers."""
    rows = []
    for y, layer in enumerate(heads.layers):
        sheets = [sheet[y] if y < len(sheet) else [] for sheet in heads.alpha]
        cells = []
        for x in range(max(map(len, sheets))):
            values = [sheet[x] if x < len(sheet) else None for sheet in sheets]
            looks = [f"{prefix(k)}{level(value)}" for k, value in enumerate(values[: len(keys)]) if known(value)]
            said = " ".join(f"{value:.2f}" if known(value) else "–" for value in values)
            cells.append(Cell(" ".join(looks), f"layer {layer} head {x}: {said}" if hover else ""))
        rows.append(Row(str(layer), cells))
    caption = "Mean attention to the token from every query that sees it; rows are layers, columns heads."
    caption += " Pointing at a cell shows its value for each of these tokens, in their order." * hover
    return CellMap(title, caption, _every(4, range(_across(rows))), rows, _scale(lambda part: f"{part:g}"), keys)


def class_map(heads: HeadMap) -> CellMap:
    """The class of every head, in colours that the legend names; classes that reports do not know share one."""
    order = in_order(CLASSES.get(name, name) for row in heads.classes for name in row if name)
    places = dict.fromkeys(order, len(CLASSES) - 1) | {words: i for i, words in enumerate(CLASSES.values())}
    rows = []
    for layer, row in zip(heads.layers, heads.classes, strict=True):
        named = [(x, CLASSES.get(name, name)) for x, name in enumerate(row)]
        cells = [Cell(f"c{places[n]}", f"layer {layer} head {x}: {n}") if n else Cell("") for x, n in named]
        rows.append(Row(str(layer), cells))
    legend = [(f"c{places[words]}", words) for words in order]
    words = ("What each head does", "The rule is under “How it was run”.")
    return CellMap(*words, _every(4, range(_across(rows))), rows, legend, name="classes")


def surface_map(surface: Surface) -> CellMap | None:
    """|h| by token and channel on a logarithmic scale; None where no number is positive."""
    tokens, channels, values = pooled(surface)
    found = [value for row in values for value in row if known(value) and value > 0]
    if not found:
        return None
    low, high = max(min(found), max(found) * DECADES), max(found)

    def look(value: Number) -> str:
        """Where a value lies on the logarithmic scale; zero like the smallest."""
        if not known(value):
            return ""
        above = math.log(value / low) if value > low else 0.0
        return f"a{level(above / math.log(high / low) if high > low else float(value > low))}"

    rows = [
        Row(shorten(visible(token), 14), [Cell(look(value)) for value in row], _largest_said(token, channels, row))
        for token, row in zip(tokens, values, strict=True)
    ]
    caption = "Tokens of the first sample; each cell is the largest of its channels. Pointing at a row shows its"
    words = (f"|h| after layer {surface.layer}, by token and channel (log scale)", f"{caption} largest.")
    legend = _scale(lambda part: figures(low * (high / low) ** part))
    return CellMap(*words, _every(16, channels), rows, legend, (), "surface", "surface", "token", "channel")


def pooled(surface: Surface) -> tuple[list[str], list[int], list[list[float | None]]]:
    """Labels of tokens, first channels, and values, joined by their largest until there are few enough to see."""
    down = max(1, math.ceil(len(surface.size) / MOST_TOKENS))
    across = max(1, math.ceil(len(surface.channels) / MOST_CHANNELS))
    tokens = [quoted(token) if down == 1 else f"{number * down}" for number, token in enumerate(surface.tokens[::down])]
    return tokens, surface.channels[::across], _joined(surface.size, len(surface.channels), down, across)


def image_cells(score: InputScore, detail: MeasureDetail) -> list[CellMap]:
    """Images of a vision model, two heatmaps each: norms of patches, which compare over all images and checkpoints,
    and where [CLS] looks, on a scale of its own."""
    images = [image for one in detail.checkpoints for other in one.inputs for image in other.images]
    most, maps = largest(row for image in images for row in image.norm), []
    for image in score.images:
        said = f"Norms of patches after the last block; the largest is {figures(largest(image.norm))}."
        maps.append(_picture(f"{image.name}: norms", said, image.norm, most))
        if image.cls is not None:
            maps.append(_picture(f"{image.name}: [CLS]", _cls_words(image), image.cls, largest(image.cls)))
    return maps


def _cls_words(image: ImageMap) -> str:
    """Attention of [CLS] in the last layer; at most 0.9 % to one patch, 2.1 % to the registers."""
    to = f"at most {part(largest(image.cls))} to one patch"
    to += "" if image.cls_registers is None else f", {part(image.cls_registers)} to the registers"
    return f"Attention of [CLS] to patches in the last layer, a mean over heads: {to}."


def _picture(title: str, caption: str, values: Values, most: float) -> CellMap:
    side = -(-max(len(values), len(values[0])) // MOST_SIDE)
    rows = [
        Row("", [Cell(f"a{level(value / most)}" if known(value) and most > 0 else "") for value in row])
        for row in _joined(values, len(values[0]), side, side)
    ]
    legend = _scale(lambda part: figures(most * part))
    return CellMap(title, caption, [], rows, legend, (), "picture", f"image {title}", "", "")


def _joined(values: Values, width: int, down: int, across: int) -> list[list[float | None]]:
    """Blocks of so many cells, each by its largest."""
    starts = [(y, range(0, width, across)) for y in range(0, len(values), down)]
    return [[largest((row[x : x + across] for row in values[y : y + down]), None) for x in xs] for y, xs in starts]


def cells_of(heads: HeadMap | None) -> int:
    """How many heads there are."""
    return 0 if heads is None else sum(map(len, heads.classes))


def largest(rows: Iterable[Iterable[Any]], default: Any = 0.0) -> Any:
    """Of the numbers in `rows`."""
    return max((value for row in rows for value in row if known(value)), default=default)


def _scale(say: Callable[[float], str]) -> list[tuple[str, str]]:
    return [(f"a{level(i / 4)}", say(i / 4)) for i in range(5)]


def _every(step: int, names: Sequence[int]) -> list[str]:
    return [str(name) if place % step == 0 else "" for place, name in enumerate(names)]


def _across(rows: list[Row]) -> int:
    return max((len(row.cells) for row in rows), default=0)


def _largest_said(token: str, channels: list[int], row: Sequence[float | None]) -> str:
    if (most := largest([row], None)) is None:
        return f"{token}: –"
    return f"{token}: largest {figures(most)}, from channel {channels[list(row).index(most)]}"
