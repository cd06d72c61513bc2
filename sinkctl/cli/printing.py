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
    except BrokenPipeError:  # the reader has enough (| head)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None


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
