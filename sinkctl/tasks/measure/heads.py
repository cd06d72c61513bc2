"""Every head of a measurement as a row: heads.csv and heads.jsonl of a run folder."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sinkctl.metrics import ATTENTION, MEANS_OF_HEADS
from sinkctl.recipe.schema import MeasureRecipe
from sinkctl.result.measure import CheckpointScore, InputScore
from sinkctl.result.rows import write_rows

HEAD = ("checkpoint", "input", "layer", "head", "class")
FIRST_REST = ("first", "rest")
# The parts of metrics that have several; those of `alpha` and `last_query` are the leading keys, counted from 1.
PARTS = {
    "mass_split": ("sinks", "local", "rest", "learned"), "qk_cosine": FIRST_REST, "key_norms": FIRST_REST,
    "value_norms": FIRST_REST, "written_norms": FIRST_REST,
}  # fmt: skip


def write_heads(
    folder: Path, recipe: MeasureRecipe, found: Mapping[int, CheckpointScore], arrays: Mapping[str, Tensor]
) -> None:
    """Write them as `recipe.save_as` says; `found` has every checkpoint by its number, `arrays` as an Outcome has them.

    A metric of a key/value head stands in the row of every query head that reads it. What a layer was not asked for, or
    does not have, is null.
    """
    rows = [
        row
        for number, checkpoint in found.items()
        for score in checkpoint.inputs
        for row in _rows(score, {"checkpoint": checkpoint.label, "input": score.name}, f"{number}/{score.name}", arrays)
    ]
    columns = list(dict.fromkeys(name for row in rows for name in row)) or list(HEAD)
    whole = [{name: row.get(name) for name in columns} for row in rows]
    write_rows(folder, "heads", recipe.save_as, columns, ((row, list(row.values())) for row in whole))


def _rows(score: InputScore, named: dict[str, str], prefix: str, arrays: Mapping[str, Tensor]) -> Iterator[dict]:
    heads, named_parts = score.heads, PARTS | {"group_mass": [group.name for group in score.groups]}
    if heads is None:
        return
    for place, (layer, classes) in enumerate(zip(heads.layers, heads.classes, strict=True)):
        by_metric = {}
        for metric in (name for name in ATTENTION if name not in MEANS_OF_HEADS):
            stacked = arrays.get(f"{prefix}/{metric}")
            stacked = None if stacked is None or len(stacked) != len(heads.layers) else stacked[place]
            if (values := arrays.get(f"{prefix}/{metric}.{place}", stacked)) is not None:
                by_metric[metric] = values
        for head, kind in enumerate(classes):
            row: dict[str, Any] = {**named, "layer": layer, "head": head, "class": kind}
            for metric, values in by_metric.items():
                own = values[head * len(values) // len(classes)]
                parts = own.tolist() if own.dim() else [own.item()]
                labels = named_parts.get(metric, range(1, len(heads.keys) + 1)) if own.dim() else [""]
                said = zip((f"{metric}_{label}".rstrip("_") for label in labels), parts, strict=metric in named_parts)
                row |= {name: float(f"{value:.7g}") if math.isfinite(value) else None for name, value in said}
            yield row
