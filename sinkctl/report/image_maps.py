"""Images of a vision model, patch by patch: norms and where [CLS] looks, as heatmaps."""

from sinkctl.report.cells import Cell, CellMap, Row, Values, level
from sinkctl.result.measure import ImageMap, InputScore, MeasureDetail
from sinkctl.result.numbers import figures, known, percent

MOST_SIDE = 48  # cells of a side; more are joined by their largest


def largest_norm(detail: MeasureDetail) -> float:
    """Of a patch in any image of any checkpoint: so drawn, they compare."""
    images = [image for one in detail.checkpoints for score in one.inputs for image in score.images]
    return largest([row for image in images for row in image.norm])


def largest(values: Values) -> float:
    """0 where there is none."""
    return max((value for row in values for value in row if known(value)), default=0.0)


def image_cells(score: InputScore, most: float) -> list[CellMap]:
    """Two heatmaps an image: norms on a scale up to `most`, [CLS]'s attention on one of its own."""
    found = []
    for image in score.images:
        said = f"Norms of patches after the last block; the largest is {figures(largest(image.norm))}."
        found.append(_cells(f"{image.name}: norms", said, image.norm, most))
        if image.cls is not None:
            found.append(_cells(f"{image.name}: [CLS]", cls_words(image), image.cls, largest(image.cls)))
    return found


def cls_words(image: ImageMap) -> str:
    """Attention of [CLS] in the last layer; at most 0.9 % to one patch, 2.1 % to the registers."""
    to = f"at most {percent(100 * largest(image.cls))} to one patch"
    to += "" if image.cls_registers is None else f", {percent(100 * image.cls_registers)} to the registers"
    return f"Attention of [CLS] to patches in the last layer, a mean over heads: {to}."


def _cells(title: str, caption: str, values: Values, most: float) -> CellMap:
    rows = [
        Row("", [Cell(f"a{level(value / most)}" if known(value) and most > 0 else "") for value in row])
        for row in _joined(values)
    ]
    legend = [(f"a{level(part / 4)}", figures(most * part / 4)) for part in range(5)]
    return CellMap(title, caption, "", [], rows, legend, (), "picture", f"image {title}", "", "")


def _joined(values: Values) -> Values:
    """Blocks of so many cells a side that there are at most MOST_SIDE, each by its largest."""
    side = -(-max(len(values), max(map(len, values))) // MOST_SIDE)
    if side == 1:
        return values
    return [
        [largest([row[x : x + side] for row in values[y : y + side]]) for x in range(0, len(values[0]), side)]
        for y in range(0, len(values), side)
    ]
