"""`sinkctl stream --generate`: text on standard output as it comes, words about it on standard error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sinkctl.cli.loading import loaded_model
from sinkctl.cli.printing import say
from sinkctl.cli.stopping import Stopping


def run_generate(recipe, *, output: Path | None, resume: bool, as_json: bool, quiet: bool, dry_run: bool) -> None:
    """Run a `generate` recipe."""
    from rich.console import Console

    from sinkctl.report.console import render
    from sinkctl.result.compare import check, parse

    thresholds = [parse(text) for text in recipe.fail_on]  # before anything is loaded
    words = Console(stderr=True, quiet=quiet)
    loaded = loaded_model(recipe.model, words)
    if dry_run:
        from sinkctl.cli.plan import show_generation

        show_generation(recipe, loaded, as_json)
        return
    from sinkctl.api import generate

    stopping, said = Stopping(), _Said(as_json)
    with reading(words) as read, stopping:

        def show(tokens, run) -> None:
            read(run)
            said.take(tokens, run)

        try:
            generated = generate(recipe, model=loaded, output=output, resume=resume, progress=show, stop=stopping.asked)
        finally:
            said.finish()
    if as_json:
        print(generated.result.model_dump_json(indent=1))
    elif not quiet:
        render(generated.result, words)
        if output is not None:
            words.print(f"kept in {output}: result.json, tokens.npy, the text, report.html", highlight=False)
    check(generated.result, thresholds)
    for text in recipe.fail_on:
        words.print(f"holds: {text}", highlight=False, markup=False)


@contextmanager
def reading(console) -> Iterator[Callable]:
    """A callback that says how much of a long prompt is in, on a terminal, until the first token."""
    if console.quiet or not console.is_terminal:
        yield lambda run: None
        return
    with console.status("reading the prompt", spinner="line") as status:

        def show(run) -> None:
            if run.steps:
                status.stop()
            else:
                status.update(f"reading the prompt: {run.fed:,} of {run.longest:,} tokens")

        yield show


class _Said:
    """One row is printed as it comes; several one after the other, each when it has ended."""

    def __init__(self, silent: bool):
        self._silent = silent
        self._rows: list[list[str]] = []
        self._printed = 0

    def take(self, tokens, run) -> None:
        """The next tokens of all rows."""
        if self._silent:
            return
        if run.rows == 1:
            say(tokens.text[0])
            return
        self._rows = self._rows or [[] for _ in range(run.rows)]
        for row, text in zip(self._rows, tokens.text, strict=True):
            row.append(text)
        while self._printed < run.rows and not run.alive[self._printed]:
            self._print_row()

    def finish(self) -> None:
        """Whatever is left."""
        while self._printed < len(self._rows):
            self._print_row()
        if not self._silent and not self._rows:
            say("\n")

    def _print_row(self) -> None:
        text = "".join(self._rows[self._printed])
        self._printed += 1
        say(f"=== prompt {self._printed}\n{text}\n")
