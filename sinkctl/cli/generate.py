"""`sinkctl stream --generate`: text on standard output as it comes, words about it on standard error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sinkctl.cli.conclude import conclude
from sinkctl.cli.loading import importing, leave, loaded_model
from sinkctl.cli.printing import say
from sinkctl.cli.stopping import Stopping
from sinkctl.errors import UsageError
from sinkctl.launched import first


def run_generate(recipe, *, output: Path | None, resume: bool, as_json: bool, quiet: bool, dry_run: bool) -> None:
    """Run a `generate` recipe."""
    from rich.console import Console

    from sinkctl.report.console import render

    if as_json and recipe.tokens == "endless" and output is None:
        raise UsageError(
            "--json shows a finished run, and endless text has no end; give --generate a number, or -o DIR"
        )
    words = Console(stderr=True, quiet=quiet or not first())  # of several processes the first one speaks
    loaded = loaded_model(recipe.model, words, weights=not dry_run)
    if dry_run and not first():
        return
    if dry_run:
        from sinkctl.cli.plan import show_generation

        show_generation(recipe, loaded, as_json)
        return
    with importing():
        from sinkctl.api.generation import generate

    stopping, said = Stopping(), _Said(as_json or not first())
    noted = recipe.tokens != "endless"  # then the result says it
    with reading(words) as read, stopping:

        def show(tokens, run) -> None:
            nonlocal noted
            read(run)
            for note in () if noted else run.settled.notes:
                words.print(f"note: {note}", highlight=False, markup=False)
            noted = True
            said.take(tokens, run)

        try:
            generated = generate(recipe, model=loaded, output=output, resume=resume, progress=show, stop=stopping.asked)
        finally:
            said.finish()
    leave()
    if generated is None:  # the first process has it
        return
    if as_json:
        print(generated.result.model_dump_json(indent=1))
    elif not quiet:
        render(generated.result.clocked(), words)
        if output is not None:
            words.print(f"kept in {output}: result.json, tokens.npy, the text, report.html", highlight=False)
    conclude(generated.result, recipe, words)


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
    """One row is printed as it comes; of several, the lines, each with the number of its prompt."""

    def __init__(self, silent: bool):
        self._silent = silent
        self._lines: list[str] = []  # of several rows, what is not a whole line yet
        self._begun = False

    def take(self, tokens, run) -> None:
        """The next tokens of all rows."""
        if self._silent or not any(tokens.text):
            return
        self._begun = True
        if run.rows == 1:
            say(tokens.text[0])
            return
        self._lines = self._lines or [""] * run.rows
        for row, text in enumerate(tokens.text):
            *whole, self._lines[row] = (self._lines[row] + text).split("\n")
            for line in whole:
                say(f"{row + 1}: {line}\n")

    def finish(self) -> None:
        """Whatever is left."""
        for row, line in enumerate(self._lines):
            if line:
                say(f"{row + 1}: {line}\n")
        if self._begun and not self._lines:
            say("\n")
