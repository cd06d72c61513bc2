"""The command line: parse → recipe → task → report. Nothing here imports torch before a command runs."""

import gc
import signal
import sys
from typing import Annotated

import typer

from sinkctl import __version__
from sinkctl.cli import bench, convert, doctor, measure, recipe, settings, short, show, stream
from sinkctl.cli.guarded import ended, guarded
from sinkctl.cli.switches import Command, Group
from sinkctl.clock import process_began, timed
from sinkctl.errors import Interrupted, UsageError
from sinkctl.small_file import pipes_kept

EXIT_CODES = (
    "Exit codes: 0 done; 1 a --fail-on threshold failed, and nothing else; 2 a wrong flag, argument or recipe; "
    "3 model, text, baseline or machine, or a threshold on what could not be measured; 70 a fault of sinkctl; "
    "130 interrupted."
)
# Under --help: what people ask for most.
EXAMPLES = {
    "stream": ("sinkctl stream book.txt -p 4+252 -p 0+256 -o runs/book", "sinkctl stream app.log --by line --top 20"),
    "measure": ("sinkctl measure ./ckpt -o runs/ckpt", "sinkctl measure ./ckpt --fail-on 'sink_rate<=5'"),
    "convert": ("sinkctl convert ./ckpt --to sink_logit -o ./with-logit",),
    "bench": ("sinkctl bench ci --against origin/main", "sinkctl bench peers --model ./ckpt --quick"),
    "generate": ('sinkctl generate "It was a dark night" -n 500',),
    "chat": ("sinkctl chat --model ORGANISATION/NAME",),
    "ask": ("sinkctl ask asked.jsonl -p 4+1020 -p 0+1024",),
    "show": ("sinkctl show runs/book", "sinkctl show runs/book --plots svg"),
    "compare": ("sinkctl compare runs/with runs/without",),
    "doctor": ("sinkctl doctor",),
    "settings": ("sinkctl settings",),
}
MAY_BE_EMPTY = ("--prompt", "--system")
app = typer.Typer(
    name="sinkctl",
    cls=Group,
    help="Attention sinks in Transformers: texts of any length in constant memory; where a checkpoint's sinks are; "
    "sinks designed in; what all of it costs.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for name, command in {
    "stream": stream.stream,
    "measure": measure.measure,
    "convert": convert.convert,
    "bench": bench.bench,
    "generate": short.generate,
    "chat": short.chat,
    "ask": short.ask,
    "show": show.show,
    "compare": show.compare,
    "doctor": doctor.doctor,
    "settings": settings.show_settings,
}.items():
    app.command(name, cls=Command, epilog="Examples:\n\n" + "\n\n".join(EXAMPLES[name]))(guarded(command))
app.add_typer(recipe.app, name="recipe")


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


def check_none_empty(words: list[str]) -> None:
    """UsageError for an empty word, which is what a shell makes of a variable that is not set."""
    for before, word in zip(["sinkctl", *words], words, strict=False):
        flag, equals, value = word.partition("=")
        flag = before if not word else flag if equals and not value and flag.startswith("--") else None
        if flag is not None and flag not in MAY_BE_EMPTY:
            raise UsageError(
                f"{flag}: what follows is empty (a shell variable that is not set?); say what, or leave it out"
            )


def _interrupt(*_) -> None:
    raise Interrupted("stopped")


def main() -> None:
    """Run the command line; errors are one line and an exit code, SINKCTL_DEBUG=1 adds the traceback."""
    gc.disable()  # until the task is imported: `loading.importing`
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, _interrupt)
    try:
        check_none_empty(sys.argv[1:])
        with timed(process_began()), pipes_kept():
            # By itself Typer would put what it cannot read in a box.
            sys.exit(app(prog_name="sinkctl", standalone_mode=False))
    except Exception as error:  # before or after a command: a signal, say
        sys.exit(ended(error))
    finally:
        gc.freeze()  # Python looks through all it imported for garbage before it ends, which takes seconds
