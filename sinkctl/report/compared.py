"""Checkpoints side by side: the numbers that can be compared, as one table."""

from collections.abc import Callable

from sinkctl.report.measured import class_counts, cost_said, in_order, input_named, sink_name, sink_percent
from sinkctl.report.parts import Table, transposed
from sinkctl.result.measure import CheckpointScore, InputScore, MeasureDetail
from sinkctl.result.numbers import NOTHING, Number, difference, figures, known, percent, quotient, share

MOST_COLUMNS = 4  # checkpoints side by side; more of them become rows
Said = tuple[str, Number]  # what a checkpoint's number says, and the number
Read = Callable[[CheckpointScore], Said]
NONE: Said = (NOTHING, None)


def compare_table(detail: MeasureDetail) -> Table:
    """Metrics as rows and checkpoints as columns, of two also the second's difference to the first.

    Many checkpoints are the rows, and few where they do not fit.
    """
    metrics = _metrics(detail)
    found = [(name, points, [read(checkpoint) for checkpoint in detail.checkpoints]) for name, points, read in metrics]
    found = [row for row in found if {said for said, _ in row[2]} != {NOTHING}]
    columns = ["", *(checkpoint.label for checkpoint in detail.checkpoints)]
    names = list(dict.fromkeys(checkpoint.inputs[0].name for checkpoint in detail.checkpoints if checkpoint.inputs))
    legend = f"Sink₁: heads whose α₁ exceeds {detail.epsilons[0]:g}"
    legend += f"; all but Sink₁ and costs: {' or '.join(names)}" if len(_inputs(detail)) > 1 else ""
    table = Table(columns, [[name, *(said for said, _ in values)] for name, _, values in found], (), [legend])
    turned = transposed(table, "checkpoint")
    if len(detail.checkpoints) > MOST_COLUMNS:
        return turned
    if len(detail.checkpoints) == 2:
        changes = [_delta(values[0][1], values[1][1], points) for _, points, values in found]
        rows = [[*row, change] for row, change in zip(table.rows, changes, strict=True)]
        table = table._replace(columns=[*columns, "Δ"], rows=rows)
    return table._replace(narrow=turned)


def _delta(first: Number, second: Number, points: bool) -> str:
    """Of percentages in points, of other numbers in percent."""
    if not known(first) or not known(second):
        return NOTHING
    return f"{second - first:+.1f} points" if points else difference(second, first) if first else NOTHING


def _metrics(detail: MeasureDetail) -> list[tuple[str, bool, Read]]:
    """Name, whether it is in percent, and how it is read."""

    def rate(name: str) -> Read:
        return lambda checkpoint: _said(sink_percent(input_named(checkpoint, name), detail.epsilons[0]), percent)

    def first(number: Callable[[InputScore], Number], say: Callable[[Number], str] = figures) -> Read:
        return lambda checkpoint: _said(number(checkpoint.inputs[0]), say) if checkpoint.inputs else NONE

    classes = in_order({name for c in detail.checkpoints for score in c.inputs[:1] for name in class_counts(score)})
    costs = dict.fromkeys(line.name for checkpoint in detail.checkpoints for line in checkpoint.costs)
    return [
        *((f"{sink_name(0)} {name}", True, rate(name)) for name in _inputs(detail)),
        ("largest α₁", False, first(lambda score: score.alpha_max, share)),
        ("massive top-1", False, first(lambda score: _largest(x.massive.top[0] for x in score.layers if x.massive))),
        ("massive layers", False, _layers),
        ("drain at the strongest sink", False, first(_drain)),
        ("largest kurtosis", False, first(lambda score: _largest(layer.kurtosis for layer in score.layers))),
        *((f"{name} heads", True, first(lambda score, name=name: _class(score, name), percent)) for name in classes),
        *((f"cost, {name}", True, lambda checkpoint, name=name: _cost(checkpoint, name)) for name in costs),
    ]


def _said(value: Number, say: Callable[[Number], str]) -> Said:
    return say(value), value


def _inputs(detail: MeasureDetail) -> list[str]:
    return list(dict.fromkeys(score.name for checkpoint in detail.checkpoints for score in checkpoint.inputs))


def _layers(checkpoint: CheckpointScore) -> Said:
    score = checkpoint.inputs[0] if checkpoint.inputs else None
    return NONE if score is None else (f"{len(score.massive_layers)} of {len(score.layers)}", None)


def _cost(checkpoint: CheckpointScore, name: str) -> Said:
    line = next((line for line in checkpoint.costs if line.name == name), None)
    ratio = None if line is None else quotient(line.perplexity, line.baseline)
    return NONE if line is None else (cost_said(line), None if ratio is None else 100 * (ratio - 1))


def _largest(values) -> Number:
    return max(filter(known, values), default=None)


def _drain(score: InputScore) -> Number:
    """Value drain where the first token receives most."""
    layers = [layer for layer in score.layers if known(layer.alpha) and known(layer.value_drain)]
    return max(layers, key=lambda layer: layer.alpha).value_drain if layers else None


def _class(score: InputScore, name: str) -> Number:
    counts = class_counts(score)
    return 100 * counts.get(name, 0) / sum(counts.values()) if counts else None
