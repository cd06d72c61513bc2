"""The command line: parse → recipe → task → report. Nothing here imports torch before a command runs."""

import os
import signal
import sys
import traceback
from typing import Annotated

import typer

from sinkctl import __version__
from sinkctl.cli import bench, convert, doctor, measure, recipe, stream
from sinkctl.errors import Interrupted, SinkctlError

app = typer.Typer(
    name="sinkctl",
    help="Attention sinks in Transformers: texts of any length in constant memory; where a checkpoint's sinks are; "
    "sinks designed in; what all of it costs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("stream")(stream.stream)
app.command("measure")(measure.measure)
app.command("convert")(convert.convert)
app.command("bench")(bench.bench)
app.add_typer(recipe.app, name="recipe")
app.command("doctor")(doctor.doctor)


def _version(asked: bool) -> None:
    if asked:
        print(f"sinkctl {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Global options."""


def _interrupt(*_) -> None:
    raise Interrupted("stopped")


def main() -> None:
    """Run the command line; errors are one line and an exit code, SINKCTL_DEBUG=1 adds the traceback."""
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, _interrupt)
    try:
        app()
    except BrokenPipeError:  # the reader of our output has gone (| head)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except (SinkctlError, OSError) as error:
        if os.environ.get("SINKCTL_DEBUG") == "1":
            traceback.print_exc()
        print(f"sinkctl: {error}", file=sys.stderr)
        sys.exit(error.exit_code if isinstance(error, SinkctlError) else 3)
