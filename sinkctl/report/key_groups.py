"""What kinds of keys (BOS, image, text; sound, padding) receive of attention: as a table, and by layer and head."""

from sinkctl.report.cells import CellMap, alpha_map
from sinkctl.report.parts import Table
from sinkctl.result.measure import HeadMap, InputScore, KeyGroup
from sinkctl.result.numbers import known, percent
from sinkctl.result.words import group_line


def group_table(score: InputScore) -> Table:
    """One row a layer: the share of each kind, a mean over heads; empty where keys are of one kind."""
    groups = score.groups
    rows = [
        [str(layer), *(percent(_mean(group, layer)) for group in groups)]
        for layer in dict.fromkeys(groups[0].layers if groups else ())
    ]
    legend = [f"all layers: {group_line(groups)}"] if groups else []
    return Table(["layer", *(group.name for group in groups)], rows, (), legend, frozenset())


def group_map(score: InputScore) -> CellMap | None:
    """The same by head, one kind shown at a time."""
    if not score.groups:
        return None
    first = score.groups[0]
    heads = HeadMap(
        keys=list(range(len(score.groups))),
        layers=first.layers,
        alpha=[group.mass for group in score.groups],
        classes=[],
    )
    shown = alpha_map(heads, "Attention by kind of key, layer and head", [group.name for group in score.groups])
    return shown._replace(
        name="kinds", caption="Share of attention that goes to keys of a kind; rows are layers, columns heads."
    )


def _mean(group: KeyGroup, layer: int) -> float | None:
    values = [x for own, row in zip(group.layers, group.mass, strict=True) if own == layer for x in row if known(x)]
    return 100 * sum(values) / len(values) if values else None
