"""`sinkctl generate`, `chat` and `ask`: three ways of `sinkctl stream`, each with the flags that it takes."""

import inspect
import os
from collections.abc import Callable
from shlex import quote
from typing import Annotated, Any

import typer

from sinkctl.cli import options
from sinkctl.cli.stream import stream
from sinkctl.errors import UsageError

_MODEL = ("model", "adapter", "revision", "device", "dtype", "trust_remote_code", "allow_pickle", "tokenizer")
_CACHE = ("special_tokens", "sinks", "window", "policy", "kv", "kv_keep", "kv_recent", "chunk")
_RUN = ("recipe", "set_", "fail_on", "output", "overwrite", "resume", "as_json", "quiet", "dry_run")
_DRAW = (
    "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "no_repeat_ngram_size", "min_new_tokens", "seed"
)  # fmt: skip


def _taking(*names: str) -> Callable[[options.Command], options.Command]:
    """The command with these flags of `stream`."""
    given = inspect.signature(stream, eval_str=True).parameters
    return options.taking(given[name] for name in names)


@_taking("prompt_file", *_CACHE, *_DRAW, *_MODEL, *_RUN)
def generate(
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="[PROMPT]...", help="Text to go on from; several are a batch.")
    ] = None,
    tokens: Annotated[
        str | None,
        typer.Option("--tokens", "-n", help="How many tokens, or endless (default 200).", metavar="N|endless"),
    ] = None,
    **flags: Any,
) -> None:
    """Text past any context length, in constant memory: what stream --generate does."""
    for prompt in prompts or ():
        if os.path.isfile(prompt) and (os.path.dirname(prompt) or os.path.splitext(prompt)[1]):
            raise UsageError(
                f"{prompt}: is a file, and a prompt is words; --prompt-file goes on from the text in it, and --recipe "
                f"takes a recipe; as words: sinkctl stream --generate {tokens or 200} --prompt {quote(prompt)}"
            )
    _check_task(flags, "generate", "generate")
    stream(prompt=prompts, generate=tokens or _unless_given("200", flags), **flags)


@_taking("system", "template_arg", *_CACHE, *_DRAW, *_MODEL, *_RUN)
def chat(**flags: Any) -> None:
    """Take turns without end, in the model's chat template: what stream --chat does."""
    _check_task(flags, "generate", "chat")
    stream(chat=True, **flags)


@_taking("limit", "bos", *_CACHE, *_MODEL, *_RUN)
def ask(
    questions: Annotated[
        str | None,
        typer.Argument(metavar="[FILE|lines]", help="Texts and questions in .jsonl; lines: a generated set."),
    ] = None,
    **flags: Any,
) -> None:
    """Stream texts with questions in between, and score exact answers: what stream --questions does."""
    _check_task(flags, "questions", "ask")
    stream(questions=questions or _unless_given("lines", flags), **flags)


def _check_task(flags: dict[str, Any], task: str, command: str) -> None:
    """UsageError for a recipe, or a run to go on with, of another task: `stream` has more of them."""
    if flags["recipe"] or flags["resume"]:
        from sinkctl.cli.build import begun_from

        begun_from(flags["recipe"], flags["resume"], [task], command)


def _unless_given(default: str, flags: dict[str, Any]) -> str | None:
    """The default, where neither a recipe nor a run that goes on says it."""
    return None if flags["recipe"] or flags["resume"] else default
