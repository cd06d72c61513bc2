"""How a run ends on the command line."""

from pathlib import Path

from rich.console import Console

from sinkctl.cli.printing import put, tables


def show(result, words: Console, *, as_json: bool, output: Path | None, kept: str) -> None:
    """The result on standard output, as JSON or, unless quiet, as the report; `kept` names the files in `output`."""
    if as_json:
        put(result.model_dump_json(indent=1))
    elif not words.quiet:
        from sinkctl.report.console import render

        render(result.clocked(), tables())
        if output is not None:
            words.print(f"kept in {output}: {kept}", highlight=False)


def conclude(result, recipe, words: Console) -> None:
    """Hold the result against the recipe's thresholds: what `Judged.check` raises, or a word for each that holds."""
    from sinkctl.result.compare import judge, parse

    judge(result, map(parse, recipe.fail_on)).check()
    for text in recipe.fail_on:
        measurement = result.measurement(parse(text).metric)
        now = "" if measurement is None else f" ({measurement.value:.6g})"
        words.print(f"holds: {text}{now}", highlight=False, markup=False)
