"""The pictures of a result as files, one picture a file, for papers and slides; the page draws the same ones."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from sinkctl.report.cells import CLASS_COLOURS, STOPS, class_places, pooled, surface_ends
from sinkctl.report.draw import lines, plain, style, write
from sinkctl.report.measured import class_name, in_order
from sinkctl.report.measured_page import on_common_scales
from sinkctl.report.measured_pictures import key_name, overall_pictures
from sinkctl.report.page import sections
from sinkctl.report.picture import LinePicture
from sinkctl.report.printable import shorten, visible
from sinkctl.result.measure import HeadMap, InputScore, MeasureDetail
from sinkctl.result.schema import Result

Drawing = tuple[str, tuple[float, float], Callable[[Any], Any]]  # name, size in inches, how to draw it
SIZE, LARGE = (5.6, 3.2), (8.6, 3.8)


def write_plots(result: Result, folder: Path, kind: Literal["png", "svg"] = "png") -> list[Path]:
    """Write every picture of `result` into `folder`, and return the files in the order of the report.

    Names begin with what is drawn; pictures of one checkpoint carry its number, from 1, and the input.
    """
    drawings = list(_drawings(result))
    written: list[Path] = []
    if drawings:
        folder.mkdir(parents=True, exist_ok=True)
    with style():
        for name, size, draw in drawings:
            path = folder / f"{_free(name, written)}.{kind}"
            write(path, size, draw)
            written.append(path)
    return written


def _drawings(result: Result) -> Iterator[Drawing]:
    if result.measure is not None:
        yield from _measured(result.measure)
        return
    for section in sections(result):
        for kind, pictures in section.parts:
            for picture in pictures if kind == "plots" else ():
                yield _line(picture, "")


def _measured(detail: MeasureDetail) -> Iterator[Drawing]:
    drawn = on_common_scales(detail)
    for picture in overall_pictures(detail):
        yield _line(picture, "")
    for number, checkpoint in enumerate(detail.checkpoints, 1):
        for score in checkpoint.inputs:
            whose, place = f"{checkpoint.label}: {score.name}", (str(number), score.name)
            yield from _maps(score, whose, place)
            yield from (_line(picture, whose, *place) for picture in drawn.get(id(score), []))
        yield from (_line(picture, checkpoint.label, str(number)) for picture in drawn.get(id(checkpoint), []))


def _line(picture: LinePicture, whose: str, *place: str) -> Drawing:
    titled = replace(picture, title=f"{picture.title}\n{whose}") if whose else picture
    return _slug(picture.name, *place), LARGE if picture.wide else SIZE, lambda figure: lines(figure, titled)


def _maps(score: InputScore, title: str, place: tuple[str, str]) -> Iterator[Drawing]:
    heads, surface = score.heads, score.surface
    if heads is not None and any(heads.classes):
        down, across = len(heads.layers), max(map(len, heads.classes))
        panel = min(4.0, 1.2 + 0.12 * across), min(8.0, 1.2 + 0.12 * down)
        columns = min(3, len(heads.keys))
        size = 0.8 + panel[0] * columns, 0.5 + panel[1] * -(-len(heads.keys) // columns)
        yield _slug("alpha", *place), size, lambda figure: _alpha(figure, score, heads, columns, title)
        if any(name for row in heads.classes for name in row):
            yield (
                _slug("classes", *place),
                (panel[0] + 1.6, panel[1] + 0.4),
                lambda figure: _classes(figure, heads, title),
            )
    if surface is not None and surface_ends(surface.size) is not None:
        words = f"{title}: |h| after layer {surface.layer}"
        yield _slug("surface", *place), (6.4, 4.4), lambda figure: _surface(figure, *pooled(surface), words)


def _alpha(figure: Any, score: InputScore, heads: HeadMap, columns: int, title: str) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    panels = figure.subplots(-(-len(heads.keys) // columns), columns, squeeze=False, sharex=True, sharey=True)
    used = list(panels.flat)[: len(heads.keys)]
    for panel in list(panels.flat)[len(used) :]:
        panel.set_visible(False)
    for panel, key, values in zip(used, heads.keys, heads.alpha, strict=True):
        _image(panel, values, norm=Normalize(0, 1), cmap=_palette())
        panel.set_title(plain(key_name(score, key)), fontsize=9)
        _layers(panel, heads)
    for panel in used[-columns:]:  # the lowest of their columns, also where the last row is not full
        panel.tick_params(labelbottom=True)
        panel.set_xlabel("head")
    figure.colorbar(ScalarMappable(Normalize(0, 1), _palette()), ax=used, label="α", shrink=0.8)
    figure.suptitle(plain(title), fontsize=10)


def _classes(figure: Any, heads: HeadMap, title: str) -> None:
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    order = in_order(class_name(name) for row in heads.classes for name in row if name)
    places = class_places(order)
    values = [[places[class_name(name)] if name else None for name in row] for row in heads.classes]
    axes = figure.subplots()
    _image(axes, values, cmap=ListedColormap(CLASS_COLOURS), vmin=0, vmax=len(CLASS_COLOURS) - 1)
    _layers(axes, heads)
    patches = [Patch(color=CLASS_COLOURS[places[words]], label=plain(words)) for words in order]
    figure.legend(handles=patches, loc="outside right upper", frameon=False)
    axes.set_title(plain(title), fontsize=10)


def _surface(figure: Any, tokens: list[str], channels: list[int], values: list, title: str) -> None:
    from matplotlib.colors import LogNorm

    low, high = surface_ends(values) or (1.0, 1.0)
    values = [[None if value is None else max(value, low) for value in row] for row in values]
    axes = figure.subplots()
    image = _image(axes, values, norm=LogNorm(low, max(high, low * 1.001)), cmap=_palette())
    for axis, names, most in ((axes.yaxis, tokens, 24), (axes.xaxis, list(map(str, channels)), 8)):
        every = max(1, len(names) // most)
        labels = [plain(shorten(visible(name), 14)) for name in names[::every]]
        axis.set_ticks(range(0, len(names), every), labels, fontsize=7)
    axes.set(xlabel="channel", ylabel="token")
    axes.set_title(plain(title), fontsize=10)
    figure.colorbar(image, label="|h| (log scale)")


def _layers(axes: Any, heads: HeadMap) -> None:
    every = max(1, -(-len(heads.layers) // 16))
    axes.set_yticks(range(0, len(heads.layers), every), [str(layer) for layer in heads.layers[::every]])
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="head", ylabel="layer")
    axes.label_outer()
    axes.spines[:].set_visible(True)


def _image(axes: Any, values: list[list[float | None]], **settings: Any) -> Any:
    """Rows as they are; what is missing or shorter is left white."""
    import numpy as np

    array = np.full((len(values), max(map(len, values))), np.nan)
    for y, row in enumerate(values):
        array[y, : len(row)] = [np.nan if value is None else value for value in row]
    return axes.imshow(np.ma.masked_invalid(array), aspect="auto", interpolation="nearest", **settings)


def _palette() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("sinkctl", STOPS).with_extremes(bad="white")


def _slug(*words: str) -> str:
    """A name that every file system takes."""
    return "-".join(filter(None, (re.sub(r"[^a-z0-9]+", "-", word.lower()).strip("-")[:40] for word in words)))


def _free(name: str, written: list[Path]) -> str:
    taken = {path.stem for path in written}
    return next(free for free in (name, *(f"{name}-{i}" for i in range(2, len(taken) + 3))) if free not in taken)
