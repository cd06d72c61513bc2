"""`sinkctl bench`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sinkctl.cli import completing, options
from sinkctl.cli.options import option
from sinkctl.cli.settings import kept_in
from sinkctl.errors import UsageError

_TIMING, _GATES = "Timing", "Gates"


@options.of_a_model(but=options.SPREAD)
def bench(
    suites: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SUITE|RECIPE]...",
            help="ci (default), stream, measure, convert, quality, prefixes, ruler, kernels, peers, startup, scaling; "
            "or recipe files. compare A B…: saved results side by side.",
            autocompletion=completing.suites,
        ),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            help="Random weights in place of a model: llama-2-7b, llama-3-8b, qwen3-4b, gpt-oss-20b, …",
            rich_help_panel="Model",
        ),
    ] = None,
    only: Annotated[
        list[str] | None, option(_TIMING, "Only this case, by its name. May repeat.", metavar="CASE")
    ] = None,
    quick: Annotated[
        bool, option(_TIMING, "Every row once, with no rounds to warm up: to look at, not to hold anything against.")
    ] = False,
    rounds: Annotated[int | None, option(_TIMING, "Samples of each way; the ways take turns.")] = None,
    processes: Annotated[int | None, option(_TIMING, "Processes that each take all rounds.")] = None,
    threads: Annotated[int | None, option(_TIMING, "CPU threads.")] = None,
    seed: Annotated[int | None, option(_TIMING, "Draws weights, tokens and bootstrap samples (default 0).")] = None,
    save_baseline: Annotated[
        Path | None, option(_GATES, "Write the result here, to hold later runs against.", metavar="FILE")
    ] = None,
    baseline: Annotated[
        Path | None, option(_GATES, "Hold the run against that of --save-baseline.", metavar="FILE")
    ] = None,
    against: Annotated[
        str | None,
        option(
            _GATES,
            "Hold it against another version, timed in turns with this one on this machine: a branch, tag or commit.",
            metavar="GIT_REF",
        ),
    ] = None,
    on_mismatch: Annotated[
        str | None,
        option(
            _GATES,
            "A baseline of other hardware, dtype or versions: fail (default, exit 3), warn (compare all the same), "
            "skip (do not compare).",
            metavar="fail|warn|skip",
        ),
    ] = None,
    fail_on: Annotated[
        list[str] | None,
        option(
            _GATES,
            "Exit 1 where it is worse than the baseline by more: stream.tokens_per_s:10%, "
            "decode.4+252.ms_per_token:5%; or, absolute, METRIC<=NUMBER, METRIC>=NUMBER. In place of the recipe's own. "
            "May repeat.",
            "--fail-on",
            metavar="METRIC:PERCENT",
        ),
    ] = None,
    recipe: options.Recipe = None,
    set_: options.Set = None,
    output: options.Output = None,
    resume: options.Resume = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    dry_run: options.DryRun = False,
    **model: Any,
) -> None:
    """Speed, memory and quality, beside what would be run instead, and a gate for CI.

    The ways of doing the same work take turns; medians with 95 % intervals,
    each beside the hardware's limit, measured in the same run.

    A regression is a change past its limit with intervals that do not touch,
    in two runs: the second is automatic. What is compared is the change beside
    the stock model's, timed in turns with it, so a slower machine is no
    regression. Worse by 10 %: 10 % more of a time, 10 % less of a rate.
    """
    from sinkctl.cli.benching import compare, run_suites

    named = [*(suites or []), *([recipe] if recipe is not None else [])]
    if named[:1] == ["compare"]:
        compare(named[1:], as_json=as_json)
        return
    if quick and (rounds is not None or processes is not None):
        raise UsageError("--quick is one round of one process; leave --rounds and --processes out")
    if shape is not None and (name := model["model"]) is not None:
        raise UsageError(f"--shape {shape}: random weights in place of a model, and --model {name} is one; give one")
    output = kept_in(output, resume, "bench", keeps=not dry_run)
    flags = options.flags_of(model) | {
        "shape": shape, "rounds": rounds, "processes": processes, "threads": threads, "seed": seed,
        "fail-on": fail_on or None,
    }  # fmt: skip
    run_suites(
        named, flags, only=only or [], quick=quick, assignments=set_ or [], save_baseline=save_baseline,
        baseline=baseline, against=against, on_mismatch=on_mismatch or "fail", output=output, resume=resume,
        as_json=as_json, quiet=quiet, dry_run=dry_run,
    )  # fmt: skip
