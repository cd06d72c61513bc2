"""Checkpoints side by side: the numbers that can be compared, as one table."""

from collections.abc import Callable

from sinkctl.report.measured import class_counts, cost_said, in_order, sink_name, sink_percent
from sinkctl.report.summary import ScoreTable
from sinkctl.result.measure import CheckpointScore, InputScore, MeasureDetail
from sinkctl.result.numbers import NOTHING, difference, figures, known, percent, quotient, share

MOST_COLUMNS = 4  # checkpoints side by side; more of them become rows
Said = tuple[str, float | None]  # what a checkpoint's number says, and the number
Read = Callable[[CheckpointScore], Said]
NONE: Said = (NOTHING, None)


def compare_table(detail: MeasureDetail, most: int = MOST_COLUMNS) -> ScoreTable:
    """Metrics as rows and checkpoints as columns, of two also the second's difference to the first.

    With more than `most` checkpoints they are the rows.
    """
    found = [
        (name, points_, [read(checkpoint) for checkpoint in detail.checkpoints])
        for name, points_, read in _metrics(detail)
    ]
    found = [row for row in found if {said for said, _ in row[2]} != {NOTHING}]
    table = [["", *(checkpoint.label for checkpoint in detail.checkpoints)]]
    table += [[name, *(said for said, _ in values)] for name, _, values in found]
    if len(detail.checkpoints) > most:
        table = [list(column) for column in zip(*table, strict=True)]
        table[0][0] = "checkpoint"
    elif len(detail.checkpoints) == 2:
        table[0].append("Δ")
        for row, (_, points_, ((_, first), (_, second))) in zip(table[1:], found, strict=True):
            row.append(_delta(first, second, points_))
    epsilon = f"Sink₁: heads whose α₁ exceeds {detail.epsilons[0]:g}"
    names = list(dict.fromkeys(checkpoint.inputs[0].name for checkpoint in detail.checkpoints if checkpoint.inputs))
    rest = f"; all but Sink₁ and costs: {' or '.join(names)}" if len(_inputs(detail)) > 1 else ""
    return ScoreTable(table[0], table[1:], set(), [epsilon + rest])


def _delta(first: float | None, second: float | None, points_: bool) -> str:
    """Of percentages in points, of other numbers in percent."""
    if not known(first) or not known(second):
        return NOTHING
    return f"{second - first:+.1f} points" if points_ else difference(second, first) if first else NOTHING


def _metrics(detail: MeasureDetail) -> list[tuple[str, bool, Read]]:
    """Name, whether it is in percent, and how it is read."""
    metrics = [(f"{sink_name(0)} {name}", True, _rate(name, detail.epsilons[0])) for name in _inputs(detail)]
    metrics += [
        ("largest α₁", False, _of_first(lambda score: score.alpha_max, share)),
        ("massive top-1", False, _of_first(lambda score: _largest(score, _top), figures)),
        ("massive layers", False, _layers),
        ("drain at the strongest sink", False, _of_first(_drain, figures)),
        ("largest kurtosis", False, _of_first(lambda score: _largest(score, lambda layer: layer.kurtosis), figures)),
    ]
    classes = in_order({name for c in detail.checkpoints for score in c.inputs[:1] for name in class_counts(score)})
    metrics += [
        (f"{name} heads", True, _of_first(lambda score, name=name: _class(score, name), percent)) for name in classes
    ]
    costs = {line.name: None for checkpoint in detail.checkpoints for line in checkpoint.costs}
    return metrics + [(f"cost, {name}", True, _cost(name)) for name in costs]


def _inputs(detail: MeasureDetail) -> list[str]:
    return list(dict.fromkeys(score.name for checkpoint in detail.checkpoints for score in checkpoint.inputs))


def _rate(name: str, epsilon: float) -> Read:
    def read(checkpoint: CheckpointScore) -> Said:
        score = next((score for score in checkpoint.inputs if score.name == name), None)
        rate = None if score is None else sink_percent(score, epsilon)
        return percent(rate), rate

    return read


def _of_first(number: Callable[[InputScore], float | None], say: Callable[[float | None], str]) -> Read:
    def read(checkpoint: CheckpointScore) -> Said:
        value = number(checkpoint.inputs[0]) if checkpoint.inputs else None
        return say(value), value

    return read


def _layers(checkpoint: CheckpointScore) -> Said:
    if not checkpoint.inputs:
        return NONE
    score = checkpoint.inputs[0]
    return f"{len(score.massive_layers)} of {len(score.layers)}", None


def _cost(name: str) -> Read:
    def read(checkpoint: CheckpointScore) -> Said:
        line = next((line for line in checkpoint.costs if line.name == name), None)
        if line is None:
            return NONE
        ratio = quotient(line.perplexity, line.baseline)
        return cost_said(line), None if ratio is None else 100 * (ratio - 1)

    return read


def _top(layer) -> float | None:
    return None if layer.massive is None else layer.massive.top[0]


def _largest(score: InputScore, of: Callable) -> float | None:
    return max((value for layer in score.layers if known(value := of(layer))), default=None)


def _drain(score: InputScore) -> float | None:
    """Value drain where the first token receives most."""
    layers = [layer for layer in score.layers if known(layer.alpha) and known(layer.value_drain)]
    return max(layers, key=lambda layer: layer.alpha).value_drain if layers else None


def _class(score: InputScore, name: str) -> float | None:
    counts = class_counts(score)
    return 100 * counts.get(name, 0) / sum(counts.values()) if counts else None
