"""Baselines: the result of an earlier benchmark in a file, and whether this run may be compared with it."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from sinkctl.errors import BaselineError, UsageError
from sinkctl.result import saved
from sinkctl.result.bench import BenchDetail, Machine, Row
from sinkctl.result.compare import Gate, Tolerance, rows_meant
from sinkctl.result.schema import Result

ENOUGH = 5  # samples that tell a regression from chance
# Settings whose values are sizes, which are compared row by row.
LADDERS = ("windows", "chunks", "rows", "lengths", "tokens", "sinks", "caches", "back")


def save(result: Result, path: str | Path) -> None:
    """Write the result of a benchmark, whole or not at all; UsageError where that cannot be."""
    assert result.bench is not None
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(result.model_dump_json(indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror})") from error


def read(path: str | Path) -> Result:
    """A result.json of a benchmark, or the run folder it lies in; BaselineError for anything else."""
    result = saved.read(path, BaselineError, "--save-baseline makes one")
    if result.task != "bench" or result.bench is None:
        raise BaselineError(f"{path}: is not the result of `sinkctl bench`")
    return result


def mismatch(now: BenchDetail, before: BenchDetail, gates: Sequence[Gate] = ()) -> list[str]:
    """Why the two may not be compared, one phrase a reason: another machine, or gated rows that `before` lacks."""
    return [*_machines(now.machine, before.machine), *_rows(now, before, gates)]


def gated_rows(now: BenchDetail, gates: Sequence[Gate]) -> list[Row]:
    """The rows that relative thresholds are about."""
    gated = [row for gate in gates if isinstance(gate, Tolerance) for row in rows_meant(now.rows, gate.metric)]
    return list({row.name: row for row in gated}.values())


def _machines(now: Machine, before: Machine) -> Iterator[str]:
    here, there = ({**m.model_dump(exclude={"versions"}), **m.versions} for m in (now, before))
    for name in dict.fromkeys([*here, *there]):
        if here.get(name) != there.get(name):
            yield f"{name} was {there.get(name) or 'absent'}, here {here.get(name) or 'absent'}"


def _rows(now: BenchDetail, before: BenchDetail, gates: Sequence[Gate]) -> Iterator[str]:
    earlier = {row.name: row for row in before.rows}
    for case in dict.fromkeys(row.case for row in gated_rows(now, gates)):
        here, there = now.cases.get(case, {}), before.cases.get(case, {})
        for key in here if there else ():
            if here[key] != there.get(key) and key not in LADDERS:
                yield f"{case} had {key} {there.get(key)}, here {here[key]}"
    for row in gated_rows(now, gates):
        old = earlier.get(row.name)
        if old is None:
            yield f"{row.name} is not in it"
            continue
        if row.low is not None and (samples := sum(map(len, old.samples))) < ENOUGH:
            yield f"{row.name} has {samples} samples there, too few"
        for key in dict.fromkeys([*row.size, *old.size]):
            if row.size.get(key) != old.size.get(key):
                yield f"{row.name} had {key} {old.size.get(key, 'unset')}, here {row.size.get(key, 'unset')}"
        if (row.unit, row.better) != (old.unit, old.better):
            yield f"{row.name} was in {old.unit}, {old.better} is better; here in {row.unit}, {row.better} is better"
