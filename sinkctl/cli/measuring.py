"""Running a `measure` recipe from the command line."""

from pathlib import Path

from rich.console import Console

from sinkctl.cli.conclude import conclude, show
from sinkctl.cli.loading import importing, leave, quiet_transformers
from sinkctl.cli.progress import parts_shown
from sinkctl.cli.stopping import Stopping
from sinkctl.errors import Interrupted
from sinkctl.launched import first


def run_measure(
    recipe, *, output: Path | None, resume: bool, as_json: bool, quiet: bool, dry_run: bool, plots: str | None
) -> None:
    """The report goes to standard output, progress to standard error."""
    words = Console(stderr=True, quiet=quiet or not first())  # of several processes the first one speaks
    if dry_run and not first():
        return
    if dry_run:
        from sinkctl.cli.plan import show_measurement
        from sinkctl.tasks.measure.settle import settle

        show_measurement(settle(recipe), as_json)
        return
    with importing(recipe.model.device):
        quiet_transformers()
        from sinkctl.api.measurement import measure

    stopping = Stopping()
    try:
        with parts_shown(words, found=not as_json) as progress, stopping:
            outcome = measure(recipe, output=output, resume=resume, progress=progress, stop=stopping.asked)
    except Interrupted as stopped:
        if stopped.result is not None:  # of the first process
            show(stopped.result, words, as_json=as_json, output=output, kept="result.json, report.html, so far")
        raise
    leave()
    if outcome is None:  # the first process has it
        return
    if plots is not None:
        from sinkctl.report.plots import write_plots

        write_plots(outcome.result, output / "plots", plots)
    kept = "result.json, arrays.safetensors, report.html" + (", plots/" if plots else "")
    kept += "".join(f", heads.{form}" for form in recipe.save_as)
    show(outcome.result, words, as_json=as_json, output=output, kept=kept)
    conclude(outcome.result, recipe, words)
