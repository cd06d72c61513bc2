"""Thresholds of a benchmark, checked against what it will measure, and then against what it did."""

from sinkctl.errors import UsageError
from sinkctl.recipe.bench import AnyCase
from sinkctl.recipe.schema import BenchRecipe
from sinkctl.result.baseline import ENOUGH
from sinkctl.result.bench import BenchDetail
from sinkctl.result.compare import Gate, Tolerance, check_names, gate_names, parse_gate
from sinkctl.tasks.bench.cases import CASES, MEASURED, UNTIMED
from sinkctl.tasks.bench.outcome import measurements


def check_gates(recipe: BenchRecipe, compared: bool) -> None:
    """UsageError for what can be known to be wrong before anything is measured."""
    gates, labels = list(map(parse_gate, recipe.fail_on)), [case.label for case in recipe.cases]
    check_names([gate._replace(metric=gate.metric.partition(".")[0]) for gate in gates], labels)
    samples = recipe.timing.rounds * recipe.timing.processes
    for gate in gates:
        case = _case(recipe, gate)
        metrics = MEASURED.get(case.kind)
        if metrics is not None:
            found = gate.metric.rpartition(".")[2]
            check_names([gate._replace(metric=f"{case.label}.{found}")], [f"{case.label}.{name}" for name in metrics])
        if compared and isinstance(gate, Tolerance) and samples < ENOUGH and case.kind not in UNTIMED:
            raise UsageError(
                f"--fail-on {gate.metric}: {samples} samples tell no regression from chance; {ENOUGH} do "
                "(rounds × processes)"
            )


def check_rows(recipe: BenchRecipe, detail: BenchDetail) -> None:
    """UsageError for a threshold on what was not measured."""
    gates, names = list(map(parse_gate, recipe.fail_on)), gate_names(detail.rows)
    check_names([gate for gate in gates if isinstance(gate, Tolerance)], names)
    names += [measurement.name for measurement in measurements(detail.rows)]
    check_names([gate for gate in gates if not isinstance(gate, Tolerance)], names)


def gated_names(recipe: BenchRecipe) -> list[str]:
    """The rows that relative thresholds are about, as far as they are known before anything is measured."""
    found = []
    for gate in map(parse_gate, recipe.fail_on):
        case = _case(recipe, gate)
        if isinstance(gate, Tolerance) and case.kind in MEASURED:
            metric = MEASURED[case.kind][0]  # beside it only memory, which is no row
            rows = [f"{case.label}.{label}.{metric}" for label in CASES[case.kind].sizes(case)]
            found += [row for row in rows if gate.metric in (row, f"{case.label}.{metric}")]
    return found


def _case(recipe: BenchRecipe, gate: Gate) -> AnyCase:
    return next(case for case in recipe.cases if case.label == gate.metric.partition(".")[0])
