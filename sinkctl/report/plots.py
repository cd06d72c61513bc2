"""The pictures of a sink measurement as files, drawn by matplotlib: one picture a file, for papers and slides."""

import math
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from sinkctl.errors import UsageError
from sinkctl.report.axis import Axis
from sinkctl.report.heatmap import STOPS
from sinkctl.report.linepicture import LinePicture, axes_of, y_ranges
from sinkctl.report.measured import CLASSES, class_name, in_order
from sinkctl.report.measured_maps import ALPHA, pooled, surface_scale
from sinkctl.report.measured_pictures import (
    all_pictures,
    checkpoint_pictures,
    input_pictures,
    key_name,
    overall_pictures,
)
from sinkctl.report.printable import shorten, visible
from sinkctl.result.measure import HeadMap, InputScore, MeasureDetail, Surface
from sinkctl.result.schema import Result

COLOURS = ("#0072b2", "#d55e00", "#008060", "#b3568c", "#a87500", "#5a5a5a")
CLASS_COLOURS = ("#0b5394", "#e8b33c", "#d8dce0", "#c2410c", "#767676")
MARKS, DASHES = "os^DP", ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (9, 3)))
MOST_MARKS, LABEL_CELLS, DOTS_PER_INCH = 12, 64, 160
STYLE = {"svg.hashsalt": "sinkctl", "axes.spines.top": False, "axes.spines.right": False, "font.size": 9}
Draw = Callable[[Any], None]


def check() -> None:
    """Raise UsageError without matplotlib: before a long run rather than after it."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as missing:
        raise UsageError("--plots needs matplotlib; pip install 'sinkctl[plot]'") from missing


def write_plots(result: Result, folder: Path, kind: Literal["png", "svg"] = "png") -> list[Path]:
    """Write every picture of `result.measure` into `folder`, and return the files in the order of the report.

    Names begin with what is drawn; pictures of one checkpoint carry its number, from 1, and the input. Raises
    UsageError without matplotlib.
    """
    check()
    import matplotlib

    if result.measure is None:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a token in a script that the font lacks
        for name, size, draw in _drawings(result.measure):
            path = folder / f"{_free(name, written)}.{kind}"
            _write(path, size, draw)
            written.append(path)
    return written


def _drawings(detail: MeasureDetail) -> list[tuple[str, tuple[float, float], Draw]]:
    """Name, size in inches, and how to draw it, for every picture."""
    ranges = y_ranges(all_pictures(detail))

    def line(picture: LinePicture, whose: str, *place: str) -> tuple[str, tuple[float, float], Draw]:
        title = f"{picture.title}\n{whose}" if whose else picture.title
        scaled = replace(picture, title=title, y_range=ranges.get(picture.name, picture.y_range))
        return _slug(picture.name, *place), (5.6, 3.2), lambda figure: _lines(figure, scaled)

    drawings = [line(picture, "") for picture in overall_pictures(detail)]
    for number, checkpoint in enumerate(detail.checkpoints, 1):
        for score in checkpoint.inputs:
            whose, place = f"{checkpoint.label}: {score.name}", (str(number), score.name)
            drawings += _maps(score, whose, place)
            drawings += [line(picture, whose, *place) for picture in input_pictures(score, detail.epsilons[0])]
        drawings += [line(picture, checkpoint.label, str(number)) for picture in checkpoint_pictures(checkpoint)]
    return drawings


def _maps(score: InputScore, title: str, place: tuple[str, str]) -> list:
    drawings = []
    heads, surface = score.heads, score.surface
    if heads is not None and any(heads.classes):
        down, across = len(heads.layers), max(map(len, heads.classes))
        panel = min(4.0, 1.2 + 0.12 * across), min(8.0, 1.2 + 0.12 * down)
        columns = min(3, len(heads.keys))
        size = 0.8 + panel[0] * columns, 0.5 + panel[1] * -(-len(heads.keys) // columns)
        drawings.append((_slug("alpha", *place), size, lambda figure: _alpha(figure, score, heads, columns, title)))
        if any(name for row in heads.classes for name in row):
            size = panel[0] + 1.6, panel[1] + 0.4
            drawings.append((_slug("classes", *place), size, lambda figure: _classes(figure, heads, title)))
    if surface is not None and surface_scale(surface.size) is not None:
        drawings.append((_slug("surface", *place), (6.4, 4.4), lambda figure: _surface(figure, surface, title)))
    return drawings


def _lines(figure: Any, picture: LinePicture) -> None:
    axes = figure.subplots()
    for number, (label, points) in enumerate(picture.lines.items()):
        axes.plot(
            *zip(*points, strict=True),
            label=_plain(label),
            color=COLOURS[number % len(COLOURS)],
            linestyle=DASHES[number % len(DASHES)],
            marker=MARKS[number % len(MARKS)],
            markevery=max(1, len(points) // MOST_MARKS),
            markersize=3.5,
            linewidth=1.3,
            clip_on=False,
        )
    for at, label in picture.guides:
        axes.axvline(at, color="0.5", linestyle=":", linewidth=1)
        place = {"xycoords": ("data", "axes fraction"), "xytext": (3, -9), "textcoords": "offset points"}
        axes.annotate(_plain(label), (at, 1), **place)
    x, y = axes_of(picture)
    _scale(axes.set_xscale, axes.set_xlim, axes.set_xticks, x, picture.log_x)
    _scale(axes.set_yscale, axes.set_ylim, axes.set_yticks, y, picture.log_y)
    title = "\n".join(map(_plain, picture.title.split("\n", 1)))
    axes.set_title(title, fontsize=10)
    axes.set(xlabel=picture.x_title, ylabel=picture.y_title)
    axes.grid(axis="y", alpha=0.25, linewidth=0.6)
    if len(picture.lines) > 1:
        axes.legend(frameon=False)


def _scale(kind: Callable, limits: Callable, ticks: Callable, axis: Axis, log: bool) -> None:
    def value(place: float) -> float:
        return math.exp(place) if log else place

    kind("log" if log else "linear")
    limits(value(axis.low), value(axis.high))
    ticks([value(at) for at, _ in axis.ticks], [label for _, label in axis.ticks])
    ticks([], minor=True)


def _alpha(figure: Any, score: InputScore, heads: HeadMap, columns: int, title: str) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    panels = figure.subplots(-(-len(heads.keys) // columns), columns, squeeze=False, sharex=True, sharey=True)
    scale = Normalize(ALPHA.low, ALPHA.high)
    used = list(panels.flat)[: len(heads.keys)]
    for panel in list(panels.flat)[len(used) :]:
        panel.set_visible(False)
    for panel, key, values in zip(used, heads.keys, heads.alpha, strict=True):
        panel.imshow(_rectangle(values), norm=scale, cmap=_palette(), aspect="auto", interpolation="nearest")
        panel.set_title(_plain(key_name(score, key)), fontsize=9)
        _layers(panel, heads)
    for panel in used[-columns:]:  # the lowest of their columns, also where the last row is not full
        panel.tick_params(labelbottom=True)
        panel.set_xlabel("head")
    figure.colorbar(ScalarMappable(scale, _palette()), ax=used, label="α", shrink=0.8)
    figure.suptitle(_plain(title), fontsize=10)


def _classes(figure: Any, heads: HeadMap, title: str) -> None:
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    order = in_order(class_name(name) for row in heads.classes for name in row if name)
    places = {words: min(i, 4) for i, words in enumerate(dict.fromkeys([*CLASSES.values(), *order]))}
    values = [[places[class_name(name)] if name else None for name in row] for row in heads.classes]
    axes = figure.subplots()
    axes.imshow(_rectangle(values), cmap=ListedColormap(CLASS_COLOURS), vmin=0, vmax=4, aspect="auto")
    _layers(axes, heads)
    patches = [Patch(color=CLASS_COLOURS[places[words]], label=_plain(words)) for words in order]
    figure.legend(handles=patches, loc="outside right upper", frameon=False)
    axes.set_title(_plain(title), fontsize=10)


def _surface(figure: Any, surface: Surface, title: str) -> None:
    from matplotlib.colors import LogNorm

    tokens, channels, values = pooled(surface)
    axis = surface_scale(values)
    assert axis is not None, "asked for before drawing"
    low, high = math.exp(axis.low), math.exp(axis.high)
    values = [[None if value is None else max(value, low) for value in row] for row in values]
    axes = figure.subplots()
    image = axes.imshow(
        _rectangle(values), norm=LogNorm(low, high), cmap=_palette(), aspect="auto", interpolation="nearest"
    )
    every = max(1, len(tokens) // 24)
    labels = [_plain(shorten(visible(token), 14)) for token in tokens[::every]]
    axes.set_yticks(range(0, len(tokens), every), labels, fontsize=7)
    every = max(1, len(channels) // 8)
    axes.set_xticks(range(0, len(channels), every), [str(channel) for channel in channels[::every]])
    axes.set(xlabel="channel", ylabel="token")
    axes.set_title(_plain(f"{title}: |h| after layer {surface.layer}"), fontsize=10)
    bar = figure.colorbar(image, label="|h| (log scale)")
    bar.set_ticks([math.exp(at) for at, _ in axis.ticks], labels=[label for _, label in axis.ticks])
    bar.minorticks_off()


def _layers(axes: Any, heads: HeadMap) -> None:
    every = max(1, -(-len(heads.layers) // 16))
    axes.set_yticks(range(0, len(heads.layers), every), [str(layer) for layer in heads.layers[::every]])
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="head", ylabel="layer")
    axes.label_outer()
    axes.spines[:].set_visible(True)


def _write(path: Path, size: tuple[float, float], draw: Draw) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure)
    metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    figure.savefig(path, dpi=DOTS_PER_INCH, metadata=metadata)


def _palette() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("sinkctl", STOPS).with_extremes(bad="white")


def _rectangle(values: list[list[float | None]]) -> Any:
    """Rows of one length as an array; what is missing is NaN."""
    import numpy as np

    array = np.full((len(values), max(map(len, values))), np.nan)
    for y, row in enumerate(values):
        array[y, : len(row)] = [np.nan if value is None else value for value in row]
    return np.ma.masked_invalid(array)


def _plain(text: str) -> str:
    """Words from anywhere: no formula, nothing hidden, and seen by a legend, which leaves out a leading underscore."""
    shown = shorten(visible(text), LABEL_CELLS).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def _slug(*words: str) -> str:
    """A name that every file system takes."""
    return "-".join(filter(None, (re.sub(r"[^a-z0-9]+", "-", word.lower()).strip("-")[:40] for word in words)))


def _free(name: str, written: list[Path]) -> str:
    taken = {path.stem for path in written}
    return next(free for free in (name, *(f"{name}-{i}" for i in range(2, len(taken) + 3))) if free not in taken)
