"""Run a benchmark: measure, hold it against a baseline, and measure again what seems to have regressed."""

import sys
from collections.abc import Callable, Container
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

from sinkctl import __version__, errors
from sinkctl.check import check
from sinkctl.check.bench import check_held, gated_names
from sinkctl.clock import carry, phase, spent, timed
from sinkctl.errors import Interrupted, ResumeError, UsageError
from sinkctl.recipe.schema import BenchRecipe
from sinkctl.result.baseline import mismatch
from sinkctl.result.bench import OURS, BenchDetail, Change, Machine
from sinkctl.result.compare import Tolerance, parse_gate, thresholds
from sinkctl.result.record import ModelReport
from sinkctl.result.regression import changes
from sinkctl.result.schema import Result
from sinkctl.result.store import ENVIRONMENT, RunFolder
from sinkctl.tasks.bench.against import checkout
from sinkctl.tasks.bench.driver import ALONE, HERE, Collected, Driver, Key, Progress
from sinkctl.tasks.bench.held import Held, Mismatch
from sinkctl.tasks.bench.outcome import detail_of, measurements
from sinkctl.tasks.bench.verdict import verdict
from sinkctl.tasks.finishing import Finish, finished

THERE = "the other version"  # the lane of what it is held against


@timed()
def run(
    recipe: BenchRecipe,
    *,
    suite: str = "bench",
    output: str | Path | None = None,
    resume: bool = False,
    baseline: str | Path | None = None,
    on_mismatch: Mismatch = "fail",
    against: str | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
    finish: Finish = lambda folder, result: None,
) -> Result:
    """Measure every case of the recipe; with `output`, keep a run folder there and, with `resume`, go on with it.

    `baseline` is a saved result, `against` a git ref that is timed in turns with this version. What fails a relative
    threshold is measured once more before it counts. Thresholds are judged in the Result, not raised. `stop` is asked
    between rounds: what is done is kept, and Interrupted raised. Raises BaselineError for a baseline that does not fit.
    """
    check(recipe, output=output, resume=resume)
    with ExitStack() as holding:
        kept = RunFolder.unfinished(output, holding).state_data() if resume else None
        return _run(recipe, suite, output, kept, holding, baseline, on_mismatch, against, progress, stop, finish)


def _run(
    recipe: BenchRecipe, suite: str, output: str | Path | None, state: dict[str, Any] | None, holding: ExitStack,
    baseline: str | Path | None, on_mismatch: Mismatch, against: str | None, progress: Callable[[Progress], None],
    stop: Callable[[], bool], finish: Finish,
) -> Result:  # fmt: skip
    """With the state to go on from, if any; `holding`: as long as that, no other run may begin in the folder."""
    plain = recipe.model_dump(mode="json", exclude={"fail_on"})
    gates = [gate for gate in map(parse_gate, recipe.fail_on) if isinstance(gate, Tolerance)]
    resume, kept = state is not None, state or {}
    carry(kept.get("seconds", 0.0))
    held = kept.get("held", {})
    check_held(recipe, baseline=baseline, against=against, kept=held)
    before = Held.settled(baseline and str(baseline), against, on_mismatch, held, gated_names(recipe))
    folder = None if output is None else RunFolder(output)
    collected = Collected.load(kept["collected"]) if resume else Collected()
    if resume:
        suite = kept["suite"]
        if kept["recipe"] != plain:
            raise UsageError(f"--resume {folder.path}: takes the recipe it began with; leave the other flags out")

    def save(now: Collected) -> None:
        if folder is not None:
            state = {"step": len(now.done), "seconds": spent(), "suite": suite, "recipe": plain}
            folder.save_state(state | {"held": before.dump(), "collected": now.dump()}, {})

    def told(what: str) -> None:
        progress(Progress(what, 0.0))

    def met(facts: dict[str, Any]) -> None:
        """Another machine than the baseline's, or than a resumed run's, is known before anything is measured."""
        if resume and facts["machine"] != collected.facts[HERE][0]["machine"]:
            raise ResumeError(f"{folder.path}: began on another machine, model or version; start the run again")
        before.check(BenchDetail(suite=suite, machine=Machine(**facts["machine"]), rates=[], rows=[]))
        if folder is not None and not resume and len(collected.facts[HERE]) == 1:  # a wrong model leaves no folder
            RunFolder.create(folder.path, holding).write_recipe(recipe.model_dump(mode="json"))
            save(collected)

    with nullcontext() if before.against is None else checkout(before.against, told=told) as other:
        pythons = {HERE: sys.executable}
        if other is not None:
            pythons[THERE] = other.python
            before.commit = other.commit
        if resume and held["commit"] != before.commit:
            began_with = "no other version" if held["commit"] is None else f"--against {held['commit'][:12]}"
            raise UsageError(f"--resume {folder.path}: the run began with {began_with}; give the same")
        driver = Driver(recipe, pythons, progress=progress, stop=stop, save=save, met=met)
        try:
            with phase("measuring"):
                driver.collect(collected, driver.keys())
            _check_measured(collected)
            detail, found = _judged(recipe, suite, collected, gates, before)
            first = {change.name: change.percent for change in found if change.failed}
            if first:
                again = Driver(recipe, pythons, progress=progress, stop=stop)
                with phase("measuring"):
                    anew = again.collect(Collected(), _keys(recipe, detail, first, again.keys()), "once more: ")
                why = _once_more(recipe, detail, first, collected, anew)
                detail, found = _judged(recipe, suite, collected, gates, before)
                once = {(recipe.cases[key.case].label, key.label): said for key, said in why.items()}
                before.notes += [f"{' '.join(row)}: could not be measured once more: {once[row]}" for row in once]
                alone = {row.name for row in detail.rows if (row.case, row.label) in once}
                found = [_twice(change, first, change.name not in alone) for change in found]
        except Interrupted as error:
            hint = "nothing is kept without --output" if folder is None else f"--resume {folder.path} goes on"
            hint = hint if collected.facts else "nothing is begun"
            total = recipe.timing.processes * len(driver.keys())
            raise Interrupted(f"stopped; {len(collected.done)} of {total} parts are done; {hint}") from error
    detail = detail.model_copy(update={"changes": found, "baseline": None if before.skipped else before.name})
    result = _result(recipe, detail, collected, before, gates)
    if folder is not None:
        folder.write_json(ENVIRONMENT, collected.facts[HERE][-1]["environment"])
    return finished(result, folder, finish, lambda what: progress(Progress(what, 1.0)))


def _once_more(
    recipe: BenchRecipe, detail: BenchDetail, names: Container[str], collected: Collected, anew: Collected
) -> dict[Key, str]:  # fmt: skip
    """Take what was measured anew, of ways that ran at first; where these rows' ways do not, the first stays: why."""
    why = {}
    for key in anew.found[HERE]:
        row_of = (recipe.cases[key.case].label, key.label)
        rows = [row for row in detail.rows if row.name in names and (row.case, row.label) == row_of]
        ways = {OURS} | {row.way for row in rows} | {row.yardstick for row in rows}
        of_lanes = [(collected.found[lane], of_lane) for lane, of_lane in anew.found.items()]
        lost = [again[key].lost(ways & first[key].seconds.keys()) for first, again in of_lanes]
        if any(lost):
            why[key] = next(filter(None, lost))
            continue
        for first, again in of_lanes:
            for way in again[key].seconds.keys() - first[key].seconds.keys():  # it keeps its first answer
                failed = first[key].opened["failed"].get(way, ALONE)
                again[key].lose(way, first[key].refusal if way == OURS else {"why": failed})
            first[key] = again[key]
    return why


def _check_measured(collected: Collected) -> None:
    """What was refused is its row's answer; where nothing else was found, it is the run's."""
    of_all = collected.found[HERE].values()
    refused = next((found.refusal for found in of_all if found.refusal), None)
    if refused and not any(found.measured or not found.refusal for found in of_all):
        raise getattr(errors, refused["kind"])(refused["why"])


def _judged(
    recipe: BenchRecipe, suite: str, collected: Collected, gates: list[Tolerance], before: Held
) -> tuple[BenchDetail, list[Change]]:  # fmt: skip
    """What was measured, and how it changed; BaselineError where it cannot be compared."""
    detail, seed = detail_of(recipe, suite, collected, HERE), recipe.timing.seed
    if THERE in collected.found:
        other = detail_of(recipe, suite, collected, THERE)
        return detail, changes(detail, other, gates, paired=True, seed=seed)
    if before.saved is None:
        return detail, []
    before.check(detail, gates)
    if before.skipped:
        return detail, []
    return detail, changes(detail, before.saved, gates, paired=False, seed=seed)


def _twice(change: Change, first: dict[str, float], taken: bool) -> Change:
    """A failure counts where the first run failed too; `first` has by how much. `taken`: whether there was a second."""
    by = first.get(change.name) if taken else None
    update = {"first_percent": by, "failed": change.failed and change.name in first}
    return change.model_copy(update=update)


def _keys(recipe: BenchRecipe, detail: BenchDetail, names: Container[str], keys: list[Key]) -> list[Key]:
    """The cases and sizes of these rows."""
    wanted = {(row.case, row.label) for row in detail.rows if row.name in names}
    return [key for key in keys if (recipe.cases[key.case].label, key.label) in wanted]


def _result(
    recipe: BenchRecipe, detail: BenchDetail, collected: Collected, before: Held, gates: list[Tolerance]
) -> Result:
    facts = collected.facts[HERE][-1]
    notes = list(before.notes)
    choices = dict(facts["choices"])
    for key, found in collected.found[HERE].items():
        name = f"{recipe.cases[key.case].label} {key.label}"
        choices |= {f"{name}: {what}": why for what, why in found.opened["choices"].items()}
        notes += [f"{name}: {way} did not run: {why}" for way, why in found.opened["failed"].items()]
    for key, found in collected.found.get(THERE, {}).items():
        if found.refusal and not collected.found[HERE][key].refusal:
            name = f"{recipe.cases[key.case].label} {key.label}"
            notes.append(f"{name}: the other version did not run: {found.refusal['why']}")
    if THERE in collected.facts:
        other = mismatch(detail, detail.model_copy(update={"machine": Machine(**collected.facts[THERE][0]["machine"])}))
        notes += [f"the other version ran with other packages: {'; '.join(other)}"] if other else []
    if gates and before.name is None:
        notes.append("without a baseline the relative thresholds are not judged; --save-baseline makes one")
    result = Result(
        task="bench",
        sinkctl_version=__version__,
        recipe=recipe.model_dump(mode="json"),
        model=None if facts["model"] is None else ModelReport(**facts["model"]),
        choices=choices,
        seconds=spent(),
        complete=True,
        measurements=measurements(detail.rows),
        verdict=verdict(detail),
        notes=list(dict.fromkeys(notes)),
        bench=detail,
    )
    crossed = [f"{text}: {said}." for text, holds, said in thresholds(result) if not holds]
    return result.model_copy(update={"verdict": crossed + result.verdict})
