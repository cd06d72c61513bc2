"""`sinkctl stream --chat`: a line in, a reply out; standard input may be a terminal or a file of lines."""

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from sinkctl.cli.loading import importing, loaded_model
from sinkctl.cli.printing import say
from sinkctl.cli.stopping import Stopping
from sinkctl.errors import Interrupted


def chat(recipe, *, output: Path | None, resume: bool, as_json: bool, quiet: bool, dry_run: bool) -> None:
    """Take turns until the input ends; Ctrl-C ends a reply, and between replies the chat."""
    from rich.console import Console

    words = Console(stderr=True, quiet=quiet)
    loaded = loaded_model(recipe.model, words, weights=not dry_run)
    if dry_run:
        from sinkctl.cli.plan import show_chat

        show_chat(recipe, loaded, as_json)
        return
    with importing():
        from sinkctl.tasks.generate.chat import Conversation

    conversation = Conversation(recipe, loaded)
    for note in conversation.settled.notes:
        words.print(f"note: {note}", highlight=False, markup=False)
    for line in _lines(recipe.prompts, words):
        stopping, reply = Stopping(), []
        with stopping:
            for piece in conversation.say(line, stopping.asked):
                reply.append(piece)
                if not as_json:
                    say(piece)
        if stopping.asked() and (stopping.by == signal.SIGTERM or not sys.stdin.isatty()):
            raise Interrupted("stopped in a reply")
        for note in conversation.notes:
            words.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
        if as_json:
            say(json.dumps({"user": line, "assistant": "".join(reply), "tokens": conversation.tokens}) + "\n")
        else:
            say("\n")


def _lines(first: tuple[str, ...], words) -> Iterator[str]:
    """What the user says: the prompts given, then lines of standard input; empty ones are passed over."""
    yield from first
    asking = sys.stdin.isatty()
    while True:
        if asking:
            words.print("[bold]>[/bold] ", end="")
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.rstrip("\n")
