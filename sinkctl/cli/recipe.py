"""`sinkctl recipe`: list, show and check recipes."""

import sys
from typing import Annotated

import typer

from sinkctl.cli.completing import recipes
from sinkctl.cli.guarded import guarded
from sinkctl.cli.switches import Command, Group
from sinkctl.errors import UsageError

app = typer.Typer(cls=Group, help="List, show and check recipes.", no_args_is_help=True)


@app.command(cls=Command, name="ls")
@guarded
def ls() -> None:
    """List the built-in recipes."""
    from sinkctl.recipe.named import built_in, purpose

    known = built_in()
    width = max(map(len, known), default=0)
    for name, path in known.items():
        print(f"{name:<{width}}  {purpose(path)}")


@app.command(cls=Command, name="show")
@guarded
def show(name: Annotated[str, typer.Argument(help="A built-in recipe, or a file.", autocompletion=recipes)]) -> None:
    """Print a recipe."""
    from sinkctl.check.mistaken import check_meant
    from sinkctl.recipe.named import find
    from sinkctl.small_file import text_of

    check_meant(name, "a recipe")
    print(text_of(find(name)), end="")


@app.command(cls=Command, name="validate")
@guarded
def validate(
    files: Annotated[list[str], typer.Argument(help="Recipe files or names.", autocompletion=recipes)],
) -> None:
    """Check recipes against the schema; every problem is named with its line."""
    from sinkctl.check.mistaken import check_meant
    from sinkctl.recipe.load import load
    from sinkctl.recipe.named import find

    wrong = 0
    for name in files:
        try:
            check_meant(name, "a recipe")
            load(find(name))
            print(f"{name}: valid")
        except UsageError as error:
            for problem in getattr(error, "problems", [error]):
                print(f"sinkctl: {problem}", file=sys.stderr)
            wrong = error.exit_code
    raise typer.Exit(wrong)


@app.command(cls=Command, name="schema")
@guarded
def schema() -> None:
    """Print the JSON Schema of recipes."""
    from sinkctl.recipe.json_schema import json_schema

    print(json_schema(), end="")
