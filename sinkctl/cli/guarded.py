"""Whatever goes wrong in a command, in one line and with its exit code."""

import errno
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import typer

from sinkctl.cli.printing import unread
from sinkctl.cli.settings import applied
from sinkctl.errors import SinkctlError, UnforeseenError, UsageError, out_of_memory
from sinkctl.launched import local_rank


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """The command, ending by `ended`: Typer itself would end a closed pipe, say, with 1, which is for thresholds."""

    @wraps(command)
    def run(*arguments: Any, **flags: Any) -> None:
        try:
            with applied():
                command(*arguments, **flags)
            sys.stdout.flush()
        except typer.Exit:
            raise
        except Exception as error:
            raise typer.Exit(ended(_of_a_full_disk(error, flags) or error)) from error

    return run


def _of_a_full_disk(error: Exception, flags: dict[str, Any]) -> SinkctlError | None:
    """What to do where the disk of a run folder became full, or its quota was reached."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    from sinkctl.result.store import resumable

    folder = flags.get("resume") or flags.get("output")
    where = error.filename if folder is None else folder
    kept = folder is not None and resumable(folder)
    what = f"go on with --resume {folder}" if kept else "start again"
    full = SinkctlError(f"{'' if where is None else f'{where}: '}the disk is full; make room, and {what}")
    full.__cause__ = error  # for the traceback
    return full


@contextmanager
def said_once() -> Iterator[None]:
    """What is wrong in here is wrong in every process of a machine, of which the first says so."""
    try:
        yield
    except SinkctlError as error:
        error.said = local_rank() > 0
        raise


def ended(error: Exception) -> int:
    """Say what went wrong, with SINKCTL_DEBUG=1 the traceback too, and return the exit code."""
    if isinstance(error, BrokenPipeError):  # the reader of our output has gone (| head)
        unread()
        return 0
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return 2
    if os.environ.get("SINKCTL_DEBUG") == "1":
        traceback.print_exception(error)
    if isinstance(error, OSError) and not out_of_memory(error):  # a file that one may not read, say
        what = f"{error.filename}: {error.strerror}" if error.filename is not None and error.strerror else str(error)
        error = SinkctlError(what + "; check who may read and write it" * isinstance(error, PermissionError))
    elif hasattr(error, "format_message"):  # of Typer, whose names for it are private
        error = UsageError(_misread(error, sys.argv[1:]))
    elif isinstance(error, ImportError) and not _ours(error):  # packages of versions that were not made for each other
        said = " ".join(str(error).split())[:300].rstrip(".")
        error = SinkctlError(
            f"the packages installed beside sinkctl do not fit together: {said}; "
            "install sinkctl anew in an environment of its own"
        )
    elif not isinstance(error, SinkctlError) and out_of_memory(error):
        said = " ".join(str(error).split())[:200].rstrip(".") or "memory does not suffice"
        error = SinkctlError(f"out of memory ({said}); fewer tokens at once or a smaller model take less")
    elif not isinstance(error, SinkctlError):
        error = UnforeseenError.of(error)
    if not error.said:
        print(f"sinkctl: {error}", file=sys.stderr)
    return error.exit_code


def _misread(error: Any, words: list[str]) -> str:
    """What Typer cannot read, said as everything else is: --top 1.5: input should be a valid integer."""
    said, flags = error.format_message(), getattr(getattr(error, "param", None), "opts", [])
    if said.startswith("Invalid value"):
        pairs = [*zip(words, words[1:], strict=False), *(word.split("=", 1) for word in words if "=" in word)]
        given = next((f"{flag} {value}" for flag, value in pairs if flag in flags), "/".join(flags))
        return f"{given}: {error.message[:1].lower()}{error.message[1:]}"
    if (asked := re.match(r"No such command '(.*?)'\.", said)) and os.path.exists(word := asked[1]):
        return (
            f"{word} is no command; to score a text: sinkctl stream {word}; to measure a model: sinkctl measure {word}"
        )
    if said.startswith("No such option") and (elsewhere := _elsewhere(error)):
        return f"no such option: {error.option_name}; {elsewhere}"
    said = said[:1].lower() + said[1:].replace(". Did you mean", "; did you mean").rstrip(".")
    context = getattr(error, "ctx", None)
    return said if context is None or said.endswith("?") else f"{said}; see `{context.command_path} --help`"


def _elsewhere(error: Any) -> str | None:
    """Of a flag that a command has not: where it is, if anywhere."""
    here, name = error.ctx.command, error.option_name
    if name in ("--text", "--file") and here.name == "stream":
        return "texts are named without a flag"
    commands = error.ctx.find_root().command.commands.values()
    has = [each.name for each in commands if any(name in parameter.opts for parameter in each.params)]
    return f"it is of {', '.join(f'`sinkctl {each}`' for each in has)}" if has else None


def _ours(error: ImportError) -> bool:
    """Whether our code asks for what is not there, and not a package we import."""
    return Path(traceback.extract_tb(error.__traceback__)[-1].filename).is_relative_to(Path(__file__).parents[1])
