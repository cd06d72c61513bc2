"""What is printed besides reports: text out of a model, harmless on a terminal, and the plan of a dry run."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from sinkctl.report.printable import visible

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console


def say(text: str) -> None:
    """Print at once, without a line end."""
    if sys.stdout.isatty():
        text = "".join(c if c in "\n\t" else visible(c) for c in text)
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        unread()
        raise SystemExit(0) from None


def unread() -> None:
    """The reader of standard output has enough (| head): what still comes goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def put(text: str) -> None:
    """A result on standard output; where nobody reads it, the command goes on to its own end and exit code."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        unread()


def tables() -> Console:
    """Standard output, as `put`: Rich itself would end the command with 1, which is for thresholds."""
    from rich.console import Console

    class Output(Console):
        def on_broken_pipe(self) -> None:
            self.quiet = True
            unread()

    return Output()


def show_recipe(recipe: BaseModel, as_json: bool) -> None:
    """The resolved recipe of a dry run, on standard output."""
    settled = recipe.model_dump(mode="json")
    if as_json:
        print(json.dumps(settled, indent=1))
    else:
        import yaml

        yaml.safe_dump(settled, sys.stdout, sort_keys=False, allow_unicode=True)


def plan_words() -> Console:
    """Where a dry run says what would be done."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
