"""Running a `convert` recipe from the command line."""

import shlex
from pathlib import Path

from rich.console import Console

from sinkctl.cli.conclude import conclude, show
from sinkctl.cli.loading import importing, loaded_model, quiet_transformers
from sinkctl.cli.progress import parts_shown
from sinkctl.cli.stopping import Stopping
from sinkctl.launched import first, processes
from sinkctl.registers import REGISTERS

KEPT = "the checkpoint, README.md, result.json, report.html"


def run_convert(recipe, *, output: Path | None, resume: bool, as_json: bool, quiet: bool, dry_run: bool) -> None:
    """The report goes to standard output, progress to standard error."""
    words = Console(stderr=True, quiet=quiet or not first())  # of several processes the first one speaks
    if dry_run:
        from sinkctl.cli.plan import show_conversion, show_registers

        if recipe.sink.kind in REGISTERS:
            show_registers(recipe, as_json)
            return
        show_conversion(recipe, _planned(recipe, words), as_json)
        return
    with importing(recipe.model.device):
        quiet_transformers()
        from sinkctl.api.conversion import convert

    stopping = Stopping("")  # the task says what is kept
    with parts_shown(words) as progress, stopping:
        converted = convert(recipe, output=output, resume=resume, progress=progress, stop=stopping.asked)
    _leave()
    if converted is None:
        return
    show(converted.result, words, as_json=as_json, output=output, kept=KEPT)
    if not as_json:
        words.print(f"go on with: {go_on(converted.result, output)}", highlight=False, markup=False, soft_wrap=True)
    conclude(converted.result, recipe, words)


def _leave() -> None:
    """Take leave of the other processes, where there are any."""
    if processes() > 1:
        from accelerate import PartialState

        PartialState().destroy_process_group()


def _planned(recipe, words: Console):
    """What the recipe begins with, loaded as far as a plan needs it, or of random weights."""
    if recipe.scratch is None:
        return loaded_model(recipe.model, words, weights=False)
    quiet_transformers()
    from sinkctl.tasks.convert.scratch import scratch

    return scratch(recipe.model, recipe.scratch, recipe.training.seed)


def go_on(result, output: Path) -> str:
    """A command that streams the checkpoint with the cache it is made for, or measures one that cannot be streamed."""
    from sinkctl.report.converted import stream_policy

    detail, folder = result.convert, shlex.quote(str(output))
    if result.registers is not None:
        return f"sinkctl measure {folder} --images {' '.join(map(shlex.quote, result.recipe['images'][:1]))}"
    ours = [line.perplexity for line in detail.streams if line.checkpoint == "converted"]
    if set(ours) == {None} or detail.mechanism == "score_bias":
        return f"sinkctl measure {folder}"
    return f"sinkctl stream --model {folder} -p {stream_policy(detail)}"
