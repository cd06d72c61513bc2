"""Before anything is timed: what the cases need, what the thresholds name, what they are held against."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sinkctl.check.texts import check_texts
from sinkctl.errors import BaselineError, SinkctlError, TextError, UsageError
from sinkctl.model.shapes import check_shape
from sinkctl.recipe.bench import AnyCase, KernelCase, PrefixCase, QualityCase, StartupCase, TasksCase
from sinkctl.recipe.schema import BenchRecipe
from sinkctl.recipe.sizes import MEASURED, UNTIMED, measured, sizes
from sinkctl.result.baseline import ENOUGH, read
from sinkctl.result.compare import Gate, Tolerance, check_names, parse_gate
from sinkctl.result.store import RunFolder


def check_inputs(recipe: BenchRecipe) -> None:
    """Raises UsageError, TextError or SinkctlError."""
    if recipe.shape is not None:
        check_shape(recipe.shape)
    for case in recipe.cases:
        sizes(case)
        if isinstance(case, QualityCase | PrefixCase):
            check_texts(case.files)
        if isinstance(case, KernelCase) and case.heads % case.kv_heads:
            raise UsageError(f"{case.label}: {case.heads} heads cannot share {case.kv_heads} kv_heads equally")
        if isinstance(case, StartupCase) and recipe.shape is not None:
            raise UsageError(
                f"{case.label}: a command starts with a checkpoint, not with random weights; leave shape out"
            )
        if isinstance(case, TasksCase):
            _check_harness(case)
    for gate in map(parse_gate, recipe.fail_on):
        _check_gate(recipe, gate)


def check_held(
    recipe: BenchRecipe, *, baseline: str | Path | None, against: str | None, kept: dict[str, Any],
    asked: bool = False,
) -> None:  # fmt: skip
    """UsageError for relative thresholds that would compare nothing, or too little; BaselineError for no baseline.

    `kept` is what a resumed run is held against; `asked`: the thresholds were asked for with this run, and are no
    suite's own, which without a baseline are only noted.
    """
    if not (baseline or against) and kept.get("piped"):
        raise BaselineError("the run began with a baseline from a pipe; give it again, --baseline FILE")
    baseline = baseline or (None if against else kept.get("baseline"))
    compared = bool(baseline or against or kept.get("against"))
    samples = recipe.timing.rounds * recipe.timing.processes
    for text, gate in zip(recipe.fail_on, map(parse_gate, recipe.fail_on), strict=True):
        if not isinstance(gate, Tolerance):
            continue
        if asked and not compared:
            raise UsageError(
                f"--fail-on {text}: there is nothing to compare with; add --baseline FILE or --against GIT_REF"
            )
        if compared and samples < ENOUGH and _case(recipe, gate).kind not in UNTIMED:
            raise UsageError(
                f"--fail-on {text}: {samples} of the {ENOUGH} samples (rounds × processes) that it takes; "
                "fewer tell no regression from chance"
            )
    if baseline is not None:
        read(baseline)


def held(output: str | Path) -> dict[str, Any]:
    """What the stopped run in this folder is held against."""
    return RunFolder(output).state_data().get("held", {})


def gated_names(recipe: BenchRecipe) -> list[str]:
    """The rows that relative thresholds are about, as far as they are known before anything is measured."""
    found = []
    for gate in map(parse_gate, recipe.fail_on):
        case = _case(recipe, gate)
        if isinstance(gate, Tolerance) and case.kind in MEASURED:
            # Beside the first only memory, which is no row.
            for metric in measured(case) if case.kind == "quality" else MEASURED[case.kind][:1]:
                rows = [f"{case.label}.{label}.{metric}" for label in sizes(case)]
                found += [row for row in rows if gate.metric in (row, f"{case.label}.{metric}")]
    return found


def _check_harness(case: TasksCase) -> None:
    if find_spec("lm_eval") is None:
        raise SinkctlError(
            f"{case.label}: tasks need lm-evaluation-harness, the extra `eval`: pip install 'sinkctl[eval]'"
        )
    if case.include is not None and not Path(case.include).is_dir():
        raise TextError(f"{case.label}: include: {case.include}: no such folder; check the path")


def _check_gate(recipe: BenchRecipe, gate: Gate) -> None:
    """UsageError for a case, a size or a metric that the run has not; what only a run can tell is let through."""
    labels = [case.label for case in recipe.cases]
    check_names([gate._replace(metric=gate.metric.partition(".")[0])], labels)
    case = _case(recipe, gate)
    names = list(_names(case))
    parts = gate.metric.split(".")
    if case.kind == "kernel" and len(parts) == 4:  # which implementations there are depends on the machine
        gate = gate._replace(metric=".".join([*parts[:2], parts[3]]))
    if case.kind in MEASURED:
        check_names([gate], names)


def _names(case: AnyCase) -> Iterator[str]:
    """What a threshold may name of a case: ours at every size, and every row in full."""
    for metric in measured(case):
        yield f"{case.label}.{metric}"
        for label in sizes(case):
            yield f"{case.label}.{label}.{metric}"
            yield from (f"{case.label}.{label}.{way}.{metric}" for way in getattr(case, "peers", ()))


def _case(recipe: BenchRecipe, gate: Gate) -> AnyCase:
    return next(case for case in recipe.cases if case.label == gate.metric.partition(".")[0])
