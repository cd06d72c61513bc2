"""`sinkctl stream FILE`: score a text."""

from pathlib import Path

from sinkctl.cli.conclude import conclude, show
from sinkctl.cli.loading import importing, leave, loaded_model
from sinkctl.cli.stopping import Stopping
from sinkctl.launched import first

KEPT = "result.json, report.html, nll.npy"


def score(recipe, *, output: Path | None, resume: bool, as_json: bool, quiet: bool, dry_run: bool) -> None:
    """Run a `stream` recipe; the report goes to standard output."""
    from rich.console import Console

    from sinkctl.cli.progress import shown

    words = Console(stderr=True, quiet=quiet or not first())  # of several processes the first one speaks
    if dry_run and not first():
        return
    loaded = loaded_model(recipe.model, words, weights=not dry_run)
    if dry_run:
        from sinkctl.cli.plan import show_plan

        show_plan(recipe, loaded, as_json)
        return
    with importing():
        from sinkctl.api.streams import stream

    stopping = Stopping()
    with shown(words) as progress, stopping:
        outcome = stream(recipe, model=loaded, output=output, resume=resume, progress=progress, stop=stopping.asked)
    leave()
    if outcome is None:  # the first process has it
        return
    kept = KEPT + ", texts.npy" * (outcome.texts is not None)
    kept += "".join(f", lines.{form}" for form in recipe.passages.save_as)
    show(outcome.result, words, as_json=as_json, output=output, kept=kept)
    conclude(outcome.result, recipe, words)
