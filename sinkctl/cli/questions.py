"""`sinkctl stream --questions`: ask about a text while it streams."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from sinkctl.cli.conclude import conclude, show
from sinkctl.cli.loading import importing, loaded_model
from sinkctl.cli.stopping import Stopping


def run_questions(
    recipe, *, output: Path | None, resume: bool = False, as_json: bool, quiet: bool, dry_run: bool
) -> None:
    """Run a `questions` recipe; the report goes to standard output."""
    words = Console(stderr=True, quiet=quiet)
    loaded = loaded_model(recipe.model, words, weights=not dry_run)
    if dry_run:
        from sinkctl.cli.plan import show_questions

        show_questions(recipe, loaded, as_json)
        return
    with importing():
        from sinkctl.api.asking import ask

    stopping = Stopping()
    with _shown(words) as progress, stopping:
        outcome = ask(recipe, model=loaded, output=output, progress=progress, stop=stopping.asked)
    show(outcome.result, words, as_json=as_json, output=output, kept="result.json, answers.jsonl, report.html")
    conclude(outcome.result, recipe, words)


@contextmanager
def _shown(console: Console) -> Iterator[Callable]:
    """A callback that says how far the questions are; on anything but a terminal it says nothing."""
    if console.quiet or not console.is_terminal:
        yield lambda _: None
        return
    with console.status("asking", spinner="line") as status:

        def show(progress) -> None:
            if progress.what:
                status.update(progress.what)
                return
            share = "" if progress.share is None else f"{min(1.0, progress.share):.0%}  "
            exact = "  ".join(f"{label} {x:.1%}" for label, x in progress.exact.items() if x is not None)
            status.update(f"{share}{progress.tokens:,} tok  {progress.questions:,} questions  right: {exact}")

        yield show
