"""`sinkctl stream`."""

import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from sinkctl.cli import options
from sinkctl.errors import Interrupted, UsageError

_SIZES = "Cache"
_TEXT = "Text"


def stream(
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE]...", help="Text, .jsonl, .gz, .xz, .bz2 or .zst; - is standard input."),
    ] = None,
    sinks: Annotated[
        int | None,
        typer.Option(
            "--sinks",
            "-S",
            help="First tokens always kept, for policies given by kind (default 4).",
            rich_help_panel=_SIZES,
        ),
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(
            "--window",
            "-W",
            rich_help_panel=_SIZES,
            help="Recent tokens kept, the query itself not counted; auto (default) fills the model's context.",
        ),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            "--policy",
            "-p",
            rich_help_panel=_SIZES,
            help="sink_window (default), window, dense, recompute; or S+W, 0+W, recompute:S+W. May repeat.",
        ),
    ] = None,
    chunk: Annotated[
        str | None,
        typer.Option(help="Tokens a forward pass; the result does not depend on it.", rich_help_panel=_SIZES),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Stop after this many tokens.", rich_help_panel=_TEXT)] = None,
    field: Annotated[
        str | None, typer.Option(help="Field of a .jsonl record (default: text).", rich_help_panel=_TEXT)
    ] = None,
    errors: Annotated[
        str | None, typer.Option(help="Bytes that are not UTF-8: strict or replace.", rich_help_panel=_TEXT)
    ] = None,
    bos: Annotated[
        str | None,
        typer.Option(help="BOS in front: auto (as the tokenizer does), always, never.", rich_help_panel=_TEXT),
    ] = None,
    model: options.Model = None,
    revision: options.Revision = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    trust_remote_code: options.TrustRemoteCode = False,
    allow_pickle: options.AllowPickle = False,
    recipe: options.Recipe = None,
    set_: options.Set = None,
    fail_on: options.FailOn = None,
    output: options.Output = None,
    resume: options.Resume = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    dry_run: options.DryRun = False,
) -> None:
    """Score a text of any length in constant memory: NLL a token, perplexity, and the passages that surprise most.

    After each token the cache holds the first S tokens and the last W, positions counted in the cache (StreamingLLM):
    the query sees S + W tokens and itself. Without FILE the built-in text goes through the built-in model.
    """
    flags = {
        "model.name": model, "model.revision": revision, "model.device": device, "model.dtype": dtype,
        "model.trust_remote_code": trust_remote_code or None, "model.allow_pickle": allow_pickle or None,
        "text.files": files or None, "text.field": field, "text.errors": errors, "text.bos": bos,
        "chunk": chunk, "limit": limit, "fail_on": fail_on or None,
    }  # fmt: skip
    built = _build(recipe, resume, output, flags, policy or [], sinks, window, set_ or [])
    _run(built, output=resume or output, resume=resume is not None, as_json=as_json, quiet=quiet, dry_run=dry_run)


def _build(
    recipe: str | None, resume: Path | None, output: Path | None, flags: dict[str, Any], policies: list[str],
    sinks: int | None, window: str | None, assignments: list[str],
):  # fmt: skip
    """Recipe file (or the kept one), then flags, then --set."""
    from sinkctl.recipe.load import override, put, read, validate
    from sinkctl.recipe.named import find
    from sinkctl.recipe.shorthand import policy
    from sinkctl.result.store import RECIPE

    if resume is not None and (recipe is not None or output is not None):
        raise UsageError(
            "--resume takes the recipe and the folder of the run it continues; leave --recipe and --output out"
        )
    data, lines, source = {"task": "stream"}, {}, "command line"
    if resume is not None and not (resume / RECIPE).exists():
        raise UsageError(f"--resume {resume}: no run folder ({RECIPE} is missing)")
    if resume is not None or recipe is not None:
        source = str(resume / RECIPE if resume is not None else find(recipe))
        data, lines = read(source)
    if data.get("task", "stream") != "stream":
        raise UsageError(f"{source}: a recipe for `sinkctl {data['task']}`")
    for key, value in flags.items():
        if value is not None:
            put(data, key, _number(value) if key == "chunk" else value, source)
    if policies:
        data["policies"] = [policy(p) for p in policies]
    sized = next((p for p in policies if "+" in p), None)
    if sized is not None and (sinks is not None or window is not None):
        raise UsageError(f"--policy {sized} says its own size; leave --sinks and --window out, or write --policy KIND")
    chosen = data.setdefault("policies", [{"kind": "sink_window"}])
    settings = [p for p in chosen if isinstance(p, dict)] if isinstance(chosen, list) else []
    for flag, value, kinds in (
        ("sinks", sinks, ("sink_window", "recompute")),
        ("window", window and _number(window), ("sink_window", "window", "recompute")),
    ):
        having = [each for each in settings if each.get("kind") in kinds]
        if value is not None and settings and not having:
            raise UsageError(f"--{flag} {value}: none of the policies has {flag}")
        for each in having if value is not None else ():
            each[flag] = value
    override(data, assignments)
    return validate(data, source, lines)


def _number(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _run(recipe, *, output: Path | None, resume: bool, as_json: bool, quiet: bool, dry_run: bool) -> None:
    from rich.console import Console

    from sinkctl.cli.progress import shown
    from sinkctl.result.compare import check, parse

    thresholds = [parse(text) for text in recipe.fail_on]  # before anything is loaded
    words = Console(stderr=True, quiet=quiet)
    with words.status("loading", spinner="line") if words.is_terminal else nullcontext():
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        from sinkctl.api import load, stream
        from sinkctl.report.console import render

        loaded = load(**recipe.model.model_dump())
    if dry_run:
        from sinkctl.cli.plan import show_plan

        show_plan(recipe, loaded, as_json)
        return
    stopping = _Stopping()
    with shown(words) as progress, stopping:
        outcome = stream(recipe, model=loaded, output=output, resume=resume, progress=progress, stop=stopping.asked)
    if as_json:
        print(outcome.result.model_dump_json(indent=1))
    elif not quiet:
        render(outcome.result, Console())
        if output is not None:
            words.print(f"kept in {output}: result.json, nll.npy, report.html", highlight=False)
    check(outcome.result, thresholds)
    for text in recipe.fail_on:
        words.print(f"holds: {text}", highlight=False, markup=False)


class _Stopping:
    """The first Ctrl-C or SIGTERM asks for a stop at the end of the block; the second stops at once."""

    def __init__(self) -> None:
        self._asked = False

    def asked(self) -> bool:
        return self._asked

    def _handle(self, *_) -> None:
        if self._asked:
            raise Interrupted("stopped at once; what the last checkpoint holds can be resumed")
        self._asked = True
        print("stopping after this block …", file=sys.stderr)

    def __enter__(self) -> None:
        self._before = {name: signal.signal(name, self._handle) for name in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *_) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)
