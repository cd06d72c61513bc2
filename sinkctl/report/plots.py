"""The pictures of a result as files, one picture a file, for papers and slides; the page draws the same ones."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from sinkctl.report.cells import CLASS_COLOURS, LEVELS, CellMap, colour, prefix
from sinkctl.report.draw import lines, plain, style, write
from sinkctl.report.page import sections
from sinkctl.report.parts import LinePicture, Part, Section
from sinkctl.result.schema import Result

Drawing = tuple[str, tuple[float, float], Callable[[Any], Any]]  # name, size in inches, how to draw it
SIZE, LARGE = (5.6, 3.2), (8.6, 3.8)
WORD = re.compile(r"[^a-z0-9]+")


def write_plots(result: Result, folder: Path, kind: Literal["png", "svg"] = "png") -> list[Path]:
    """Write every picture of `result` into `folder`, and return the files in the order of the report.

    Names begin with what is drawn; those of one checkpoint or input carry its name.
    """
    checkpoints = result.measure.checkpoints if result.measure is not None else []
    naming = {checkpoint.label for checkpoint in checkpoints} | {score.name for c in checkpoints for score in c.inputs}
    drawings = list(_of([("section", section) for section in sections(result)], naming, []))
    written: list[Path] = []
    if drawings:
        folder.mkdir(parents=True, exist_ok=True)
    with style():
        for name, size, draw in drawings:
            path = folder / f"{_free(name, written)}.{kind}"
            write(path, size, draw)
            written.append(path)
    return written


def _of(parts: list[Part], naming: set[str], titles: list[str]) -> Iterator[Drawing]:
    """The pictures of a section, and of those in it; `titles` of the sections they stand in that are in `naming`."""
    whose = ": ".join(titles)
    for kind, it in parts:
        if kind == "plots":
            yield from (_line(picture, whose, titles) for picture in it)
        elif kind in ("cells", "maps") and it:
            for drawn in [it] if kind == "cells" else it:
                yield _cells(drawn, whose, titles)
        elif kind == "section" and isinstance(it, Section):
            yield from _of(it.parts, naming, [*titles, it.title] if it.title in naming else titles)


def _line(picture: LinePicture, whose: str, titles: list[str]) -> Drawing:
    titled = replace(picture, title=f"{picture.title}\n{whose}" if whose else picture.title)
    return _slug(picture.name, *titles), LARGE if picture.wide else SIZE, lambda figure: lines(figure, titled)


def _cells(drawn: CellMap, whose: str, titles: list[str]) -> Drawing:
    """A panel a key."""
    keys = list(drawn.keys) or [""]
    across = max((len(row.cells) for row in drawn.rows), default=1)
    panel = min(6.0, 1.2 + 0.12 * across), min(8.0, 1.2 + 0.12 * len(drawn.rows))
    columns = min(3, len(keys))
    size = 1.4 + panel[0] * columns, 0.6 + panel[1] * -(-len(keys) // columns)

    def draw(figure: Any) -> None:
        from matplotlib.patches import Patch

        panels = list(figure.subplots(-(-len(keys) // columns), columns, squeeze=False).flat)
        for number, (axes, key) in enumerate(zip(panels, keys, strict=False)):
            axes.imshow(_colours(drawn, number, across), aspect="auto", interpolation="nearest")
            every = max(1, -(-len(drawn.rows) // 24))
            names = [plain(row.label) for row in drawn.rows[::every]]
            axes.set_yticks(range(0, len(drawn.rows), every), names, fontsize=7)
            axes.set_title(plain(key), fontsize=9)
            axes.set(xlabel=drawn.across, ylabel=drawn.down)
        for axes in panels[len(keys) :]:
            axes.set_visible(False)
        patches = [Patch(color=_palette()[look], label=plain(words)) for look, words in drawn.legend]
        figure.legend(handles=patches, loc="outside right upper", frameon=False)
        figure.suptitle("\n".join(map(plain, filter(None, (drawn.title, whose)))), fontsize=10)

    return _slug(drawn.name, *titles), size, draw


def _colours(drawn: CellMap, key: int, across: int) -> Any:
    """Red, green and blue of every cell; white where there is nothing."""
    import numpy as np
    from matplotlib.colors import to_rgb

    picture, palette = np.ones((len(drawn.rows), across, 3)), _palette(key)
    for y, row in enumerate(drawn.rows):
        for x, cell in enumerate(row.cells):
            for look in palette.keys() & set(cell.look.split()):
                picture[y, x] = to_rgb(palette[look])
    return picture


def _palette(key: int = 0) -> dict[str, str]:
    """The colour of each class of cells: on the scale of a key, and of a few."""
    return {f"{prefix(key)}{n}": colour(n) for n in range(LEVELS)} | {f"c{n}": c for n, c in enumerate(CLASS_COLOURS)}


def _slug(*words: str) -> str:
    """A name that every file system takes."""
    return "-".join(filter(None, (WORD.sub("-", word.lower()).strip("-")[:40] for word in words)))


def _free(name: str, written: list[Path]) -> str:
    taken = {path.stem for path in written}
    return next(free for free in (name, *(f"{name}-{i}" for i in range(2, len(taken) + 3))) if free not in taken)
