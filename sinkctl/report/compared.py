"""Checkpoints side by side: the numbers that can be compared, as one table."""

from collections.abc import Callable

from sinkctl.report.measured import class_counts, cost_said, in_order, sink_name, sink_percent
from sinkctl.report.summary import ScoreTable
from sinkctl.result.measure import CheckpointScore, InputScore, MeasureDetail
from sinkctl.result.numbers import NOTHING, figures, known, percent, share

MOST_COLUMNS = 4  # checkpoints side by side; more of them become rows
Read = Callable[[CheckpointScore], str]


def compare_table(detail: MeasureDetail, most: int = MOST_COLUMNS) -> ScoreTable:
    """Metrics as rows and checkpoints as columns; the other way round with more than `most` checkpoints."""
    rows = [[name, *(read(checkpoint) for checkpoint in detail.checkpoints)] for name, read in _metrics(detail)]
    rows = [row for row in rows if set(row[1:]) != {NOTHING}]
    table = [["", *(checkpoint.label for checkpoint in detail.checkpoints)], *rows]
    if len(detail.checkpoints) > most:
        table = [list(column) for column in zip(*table, strict=True)]
        table[0][0] = "checkpoint"
    epsilon = f"Sink₁: heads whose α₁ exceeds {detail.epsilons[0]:g}"
    names = list(dict.fromkeys(checkpoint.inputs[0].name for checkpoint in detail.checkpoints if checkpoint.inputs))
    rest = f"; all but Sink₁ and costs: {' or '.join(names)}" if len(_inputs(detail)) > 1 else ""
    return ScoreTable(table[0], table[1:], set(), [epsilon + rest])


def _metrics(detail: MeasureDetail) -> list[tuple[str, Read]]:
    metrics = [(f"{sink_name(0)} {name}", _rate(name, detail.epsilons[0])) for name in _inputs(detail)]
    metrics += [
        ("largest α₁", _of_first(lambda score: share(score.alpha_max))),
        ("massive top-1", _of_first(lambda score: figures(_largest(score, _top)))),
        ("massive layers", _of_first(lambda score: f"{len(score.massive_layers)} of {len(score.layers)}")),
        ("drain at the strongest sink", _of_first(_drain)),
        ("largest kurtosis", _of_first(lambda score: figures(_largest(score, lambda layer: layer.kurtosis)))),
    ]
    classes = in_order({name for c in detail.checkpoints for score in c.inputs[:1] for name in class_counts(score)})
    metrics += [(f"{name} heads", _of_first(lambda score, name=name: _class(score, name))) for name in classes]
    costs = {line.name: None for checkpoint in detail.checkpoints for line in checkpoint.costs}
    return metrics + [(f"cost, {name}", _cost(name)) for name in costs]


def _inputs(detail: MeasureDetail) -> list[str]:
    return list(dict.fromkeys(score.name for checkpoint in detail.checkpoints for score in checkpoint.inputs))


def _rate(name: str, epsilon: float) -> Read:
    def read(checkpoint: CheckpointScore) -> str:
        score = next((score for score in checkpoint.inputs if score.name == name), None)
        return NOTHING if score is None else percent(sink_percent(score, epsilon))

    return read


def _of_first(say: Callable[[InputScore], str]) -> Read:
    return lambda checkpoint: say(checkpoint.inputs[0]) if checkpoint.inputs else NOTHING


def _cost(name: str) -> Read:
    def read(checkpoint: CheckpointScore) -> str:
        line = next((line for line in checkpoint.costs if line.name == name), None)
        return NOTHING if line is None else cost_said(line)

    return read


def _top(layer) -> float | None:
    return None if layer.massive is None else layer.massive.top[0]


def _largest(score: InputScore, of: Callable) -> float | None:
    return max((value for layer in score.layers if known(value := of(layer))), default=None)


def _drain(score: InputScore) -> str:
    """Value drain where the first token receives most."""
    layers = [layer for layer in score.layers if known(layer.alpha) and known(layer.value_drain)]
    return figures(max(layers, key=lambda layer: layer.alpha).value_drain) if layers else NOTHING


def _class(score: InputScore, name: str) -> str:
    counts = class_counts(score)
    return percent(100 * counts.get(name, 0) / sum(counts.values())) if counts else NOTHING
