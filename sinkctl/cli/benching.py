"""`sinkctl bench SUITE…`: run one suite after the other, say what regressed; and saved results side by side."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sinkctl.cli.build import MODEL, build
from sinkctl.cli.conclude import show
from sinkctl.cli.loading import importing
from sinkctl.cli.printing import plan_words, put, show_recipe, tables
from sinkctl.cli.stopping import Stopping
from sinkctl.errors import UsageError
from sinkctl.result.compare import Judged

FIELDS = {
    "bench": MODEL | {
        "shape": "shape", "rounds": "timing.rounds", "processes": "timing.processes", "threads": "timing.threads",
        "seed": "timing.seed",
    }
}  # fmt: skip
QUICK = ("timing.rounds=1", "timing.warmup=0", "timing.seconds=0.001", "timing.processes=1")
FIRST = "ci"  # the suite that runs where none is named
KEPT = "result.json, report.html, summary.md, junit.xml, benchmark-smaller.json, benchmark-bigger.json"


def run_suites(
    suites: Sequence[str], flags: dict[str, Any], *, only: Sequence[str], quick: bool, assignments: Sequence[str],
    output: Path | None, resume: Path | None, save_baseline: Path | None, baseline: Path | None, on_mismatch: str,
    against: str | None, as_json: bool, quiet: bool, dry_run: bool,
) -> None:  # fmt: skip
    """Every suite in turn, in folders of their own where there are several; ThresholdError where one regressed."""
    from sinkctl.check import check
    from sinkctl.check.bench import check_held, held
    from sinkctl.result.store import check_writable

    if on_mismatch not in ("fail", "warn", "skip"):
        raise UsageError(f"--on-mismatch {on_mismatch}: one of fail, warn, skip")
    if baseline is not None and against is not None:
        raise UsageError("--baseline and --against: hold it against a saved run or another version, not both")
    names: list[str | None] = [None] if resume is not None else [_named(name) for name in suites or [FIRST]]
    if resume is not None and (suites or output is not None):
        raise UsageError("--resume takes the suite and the folder of the run it continues; leave both out")
    if len(names) > 1 and (save_baseline or baseline):
        raise UsageError(f"a baseline is of one suite; {', '.join(suites)} are {len(names)}")
    recipes, assignments = {}, [*(QUICK if quick else ()), *assignments]
    for name in names:
        recipe = build(flags, FIELDS, "bench", recipe=name, resume=resume, output=None, assignments=assignments)
        suite = _suite(name, resume)
        if suite in recipes:
            raise UsageError(f"{suite}: named twice")
        recipes[suite] = _only(recipe, only, own_gates=flags["fail-on"] is None)
    if save_baseline is not None and not dry_run:
        if save_baseline.is_dir() or not save_baseline.absolute().parent.is_dir():
            raise UsageError(f"--save-baseline {save_baseline}: name a file in a folder that exists")
        check_writable(save_baseline.absolute().parent, f"--save-baseline {save_baseline}")
    if len(recipes) > 1 and as_json:
        raise UsageError("--json prints one result; name one suite, or keep them with --output")
    asked = flags["fail-on"] is not None or any(text.startswith("fail_on") for text in assignments)
    for suite, recipe in recipes.items():
        here = _folder(suite, len(recipes), output, resume)
        check(recipe, output=here, resume=resume is not None, loads=not dry_run)
        kept = {} if resume is None else held(resume)
        check_held(recipe, baseline=baseline, against=against, kept=kept, asked=asked)
    failed, unanswered = [], []
    for suite, recipe in recipes.items():
        if dry_run:
            _show_plan(recipe, as_json)
            continue
        judged = _run(
            recipe, suite, output=_folder(suite, len(recipes), output, resume),
            resume=resume is not None, save_baseline=save_baseline, baseline=baseline,
            on_mismatch=on_mismatch, against=against, as_json=as_json, quiet=quiet,
        )  # fmt: skip
        failed, unanswered = failed + judged.failed, unanswered + judged.unanswered
    Judged(failed, unanswered).check()


def _show_plan(recipe, as_json: bool) -> None:
    """A recipe, and what is measured one after the other; nothing is loaded, torch neither."""
    from sinkctl.recipe.sizes import sizes

    show_recipe(recipe, as_json)
    words, timing = plan_words(), recipe.timing
    for case in recipe.cases:
        peers = ", ".join(getattr(case, "peers", ()))
        words.print(f"{case.label}: {'; '.join(sizes(case))}{f', beside {peers}' if peers else ''}")
    threads = "" if timing.threads is None else f", {timing.threads} thread{'s' if timing.threads > 1 else ''}"
    processes = f"{timing.processes} process{'es' if timing.processes > 1 else ''}"
    rounds = f"{timing.rounds} round{'s' if timing.rounds > 1 else ''}"
    words.print(f"{rounds} in {processes}{threads}; a sample takes at least {timing.seconds:g} s")


def _folder(suite: str, suites: int, output: Path | None, resume: Path | None) -> Path | None:
    """The run folder of a suite: one of its own inside `output`, where there are several."""
    return resume or (output / suite if output is not None and suites > 1 else output)


def _run(
    recipe, suite: str, *, output: Path | None, save_baseline: Path | None, as_json: bool, quiet: bool, **options: Any
) -> Judged:  # fmt: skip
    """Run one suite, print it, and hold it against its thresholds."""
    from rich.console import Console

    with importing():
        from sinkctl.api.benchmarks import bench
    from sinkctl.cli.progress import parts_shown
    from sinkctl.report.benched import summary
    from sinkctl.report.github import annotations
    from sinkctl.result.baseline import save
    from sinkctl.result.compare import Tolerance, judge, parse_gate

    words = Console(stderr=True, quiet=quiet)
    stopping = Stopping("with --output, the sizes that are done are kept, and --resume goes on")
    with parts_shown(words, found=not as_json) as progress, stopping:
        result = bench(recipe, name=suite, output=output, progress=progress, stop=stopping.asked, **options)
    show(result, words, as_json=as_json, output=output, kept=KEPT)
    gates = [parse_gate(text) for text in recipe.fail_on]
    compared = result.bench.baseline is not None
    found = judge(result, [gate for gate in gates if compared or not isinstance(gate, Tolerance)])
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in annotations(result, found.said):
            print(line, file=sys.stderr)
    if page := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            with open(page, "a", encoding="utf-8") as file:
                file.write(summary(result, result.bench.environment))
        except OSError as error:
            words.print(f"no summary: {page} cannot be written ({error.strerror})", highlight=False)
    if save_baseline is not None and found.said:
        words.print(f"{save_baseline} is not written: this run did not pass its thresholds", highlight=False)
    elif save_baseline is not None:
        save(result, save_baseline)
        words.print(f"baseline: {save_baseline}", highlight=False)
    return found


def compare(files: Sequence[str], *, as_json: bool) -> None:
    """`sinkctl bench compare A B…`: saved results (files, or run folders) side by side."""
    import json

    from sinkctl.check.mistaken import check_meant
    from sinkctl.report.console import print_table
    from sinkctl.report.runs_compared import compared
    from sinkctl.result.baseline import read

    if len(files) < 2:
        raise UsageError("name two saved results or more, files or run folders: sinkctl bench compare A B…")
    for name in files:
        check_meant(name, "a run")
    results = [read(name) for name in files]
    if as_json:
        names = dict.fromkeys(m.name for result in results for m in result.measurements)
        found = {name: [m and m.value for m in (result.measurement(name) for result in results)] for name in names}
        put(json.dumps(found, indent=1))
    else:
        print_table(compared(results, list(files)), tables())


def _named(name: str) -> str:
    """A suite by its own name, ci, is the built-in recipe bench/ci; whatever else stays."""
    from sinkctl.check.mistaken import check_meant
    from sinkctl.recipe.load import suggest
    from sinkctl.recipe.named import built_in
    from sinkctl.small_file import is_there

    check_meant(name, "a suite")
    if is_there(name) or name in built_in():
        return name
    suites = [known.removeprefix("bench/") for known in built_in() if known.startswith("bench/")]
    if name not in suites:
        raise UsageError(f"{name}: no such suite or file{suggest(name, suites)}")
    return f"bench/{name}"


def _suite(name: str | None, resume: Path | None) -> str:
    from sinkctl.recipe.named import called

    return called(name) if name is not None else resume.resolve().name


def _only(recipe, cases: Sequence[str], own_gates: bool):
    """The recipe with these cases alone, and the gates on them; gates that were asked for stay."""
    if not cases:
        return recipe
    from sinkctl.recipe.load import suggest

    known = [case.label for case in recipe.cases]
    for name in cases:
        if name not in known:
            raise UsageError(f"--only {name}: no such case{suggest(name, known)}")
    gates = tuple(gate for gate in recipe.fail_on if not own_gates or gate.split(".")[0] in cases)
    kept = tuple(case for case in recipe.cases if case.label in cases)
    return recipe.model_copy(update={"cases": kept, "fail_on": gates})
