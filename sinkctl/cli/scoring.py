"""`sinkctl stream FILE`: score a text."""

from pathlib import Path

from sinkctl.cli.conclude import conclude
from sinkctl.cli.loading import loaded_model
from sinkctl.cli.stopping import Stopping


def score(recipe, *, output: Path | None, resume: bool, as_json: bool, quiet: bool, dry_run: bool) -> None:
    """Run a `stream` recipe; the report goes to standard output."""
    from rich.console import Console

    from sinkctl.cli.progress import shown
    from sinkctl.result.compare import parse

    for text in recipe.fail_on:  # before anything is loaded
        parse(text)
    words = Console(stderr=True, quiet=quiet)
    loaded = loaded_model(recipe.model, words)
    if dry_run:
        from sinkctl.cli.plan import show_plan

        show_plan(recipe, loaded, as_json)
        return
    from sinkctl.api import stream
    from sinkctl.report.console import render

    stopping = Stopping()
    with shown(words) as progress, stopping:
        outcome = stream(recipe, model=loaded, output=output, resume=resume, progress=progress, stop=stopping.asked)
    if as_json:
        print(outcome.result.model_dump_json(indent=1))
    elif not quiet:
        render(outcome.result, Console())
        if output is not None:
            words.print(f"kept in {output}: result.json, nll.npy, report.html", highlight=False)
    conclude(outcome.result, recipe, words)
