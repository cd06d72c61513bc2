"""`sinkctl stream`."""

from typing import Annotated, Any

import typer

from sinkctl.cli import options
from sinkctl.cli.build import number
from sinkctl.cli.guarded import said_once
from sinkctl.cli.options import option
from sinkctl.cli.piped import piped
from sinkctl.cli.settings import kept_in
from sinkctl.cli.stream_flags import stream_recipe, template_args
from sinkctl.launched import first, processes

_CACHE, _TEXT, _GENERATE = "Cache", "Scoring", "Generation"


@options.of_a_model()
def stream(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE]...",
            help="Text, .jsonl, .gz, .xz, .bz2 or .zst; - is standard input, as is what is piped in.",
        ),
    ] = None,
    sinks: Annotated[
        int | None,
        option(_CACHE, "First tokens always kept, for policies given by kind (default 4).", "--sinks", "-S"),
    ] = None,
    window: Annotated[
        str | None,
        option(
            _CACHE,
            "Recent tokens kept, the query itself not counted; auto (default) fills the model's context.",
            "--window",
            "-W",
        ),
    ] = None,
    policy: Annotated[
        list[str] | None,
        option(
            _CACHE,
            "sink_window (default), window, dense, recompute; or S+W, 0+W, recompute:S+W, heavy_hitter:S+W, "
            "random:S+W, snap:S+W, layers:S+W:0,8, heads:S+W:RUN@0.25. May repeat.",
            "--policy",
            "-p",
        ),
    ] = None,
    kv: Annotated[
        list[str] | None,
        option(
            _CACHE, "Round keys and values that are not recent: 8bit, fp8, 4bit, 3bit, 2bit; full. May repeat.", "--kv"
        ),
    ] = None,
    kv_keep: Annotated[
        list[str] | None,
        option(
            _CACHE,
            "Tokens that --kv leaves in full: first:N, predicted, first:N+predicted, or none (default). May repeat.",
            "--kv-keep",
        ),
    ] = None,
    kv_recent: Annotated[int | None, option(_CACHE, "Last tokens that --kv leaves in full (default 128).")] = None,
    redistribute: Annotated[
        list[str] | None,
        option(
            _CACHE,
            "Give this share of the first token's attention to the other tokens, beside the run without. May repeat.",
            metavar="SHARE",
        ),
    ] = None,
    redistribute_heads: Annotated[
        str | None,
        option(
            _CACHE,
            "In which: all (default), LAYER.HEAD,…, or calibrate: those that lower the loss of another text, "
            "beside as many random ones.",
            metavar="HEADS",
        ),
    ] = None,
    redistribute_text: Annotated[
        list[str] | None,
        option(_CACHE, "That other text (default: the end of the built-in one). May repeat.", metavar="FILE"),
    ] = None,
    chunk: Annotated[str | None, option(_CACHE, "Tokens a forward pass; the result does not depend on it.")] = None,
    each: Annotated[
        str | None,
        option(
            _TEXT,
            "Texts on their own, each with an empty cache: every file, or every record of .jsonl files. Several "
            "processes (torchrun, accelerate launch) share them out.",
            metavar="file|record",
        ),
    ] = None,
    rows: Annotated[
        str | None, option(_TEXT, "Of these, texts side by side; auto (default): as many as a forward pass holds.")
    ] = None,
    limit: Annotated[
        int | None, option(_TEXT, "Stop after this many tokens of text; with --each, of each text.")
    ] = None,
    by: Annotated[
        str | None,
        option(
            _TEXT,
            "Surprising passages: tokens (default: 32 in a row), or line (of .jsonl: record).",
            metavar="tokens|line",
        ),
    ] = None,
    top: Annotated[int | None, option(_TEXT, "How many surprising passages to keep and show (default 10).")] = None,
    save_as: Annotated[
        list[str] | None,
        option(
            _TEXT,
            "With -o: every line (of .jsonl: record) with its losses, as lines.csv or lines.jsonl. May repeat.",
            metavar="csv|jsonl",
        ),
    ] = None,
    field: Annotated[str | None, option(_TEXT, "Field of a .jsonl record (default: text, or prompt).")] = None,
    errors: Annotated[str | None, option(_TEXT, "Bytes that are not UTF-8: strict or replace.")] = None,
    bos: Annotated[
        str | None,
        option(_TEXT, "BOS in front: auto (as the tokenizer does), always, never; each: of every file, in one text."),
    ] = None,
    questions: Annotated[
        str | None,
        option(
            _TEXT,
            "Stream the texts of a .jsonl file and ask its questions in between; lines: a generated set.",
            metavar="FILE|lines",
        ),
    ] = None,
    generate: Annotated[
        str | None,
        option(_GENERATE, "Generate so many tokens, or endless.", "--generate", "-g", metavar="N|endless"),
    ] = None,
    prompt: Annotated[
        list[str] | None, option(_GENERATE, "Text to go on from. May repeat: a batch.", metavar="TEXT")
    ] = None,
    prompt_file: Annotated[
        list[str] | None,
        option(_GENERATE, "A prompt of any length, or .jsonl with one a line. May repeat.", metavar="FILE"),
    ] = None,
    chat: Annotated[bool, option(_GENERATE, "Take turns, in the model's chat template.", "--chat")] = False,
    system: Annotated[str | None, option(_GENERATE, "System message of the chat.", metavar="TEXT")] = None,
    template_arg: Annotated[
        list[str] | None,
        option(
            _GENERATE, "What the chat template takes, such as enable_thinking=false. May repeat.", metavar="KEY=VALUE"
        ),
    ] = None,
    temperature: Annotated[
        str | None, option(_GENERATE, "0 is greedy; auto (default): the checkpoint's generation config.")
    ] = None,
    top_k: Annotated[str | None, option(_GENERATE, "Draw among this many likeliest tokens.")] = None,
    top_p: Annotated[str | None, option(_GENERATE, "Draw among the likeliest that hold this probability.")] = None,
    min_p: Annotated[str | None, option(_GENERATE, "Draw among those at least so likely beside the likeliest.")] = None,
    repetition_penalty: Annotated[
        str | None, option(_GENERATE, "On every token that was there before; 1: none.")
    ] = None,
    no_repeat_ngram_size: Annotated[
        str | None, option(_GENERATE, "So many tokens in a row come once only; 0: no rule.")
    ] = None,
    min_new_tokens: Annotated[str | None, option(_GENERATE, "No end of sequence before so many tokens.")] = None,
    seed: Annotated[int | None, option(_GENERATE, "Of the draws (default 0).")] = None,
    recipe: options.Recipe = None,
    set_: options.Set = None,
    fail_on: options.FailOn = None,
    output: options.Output = None,
    overwrite: options.Overwrite = False,
    resume: options.Resume = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    dry_run: options.DryRun = False,
    **model: Any,
) -> None:
    """Texts of any length through a model, in constant memory: score, go on, ask.

    FILE is scored: NLL a token, perplexity, the passages that surprise most.
    --generate and --chat produce text, past any context length.

    After each token the cache holds the first S tokens and the last W,
    positions counted in the cache (StreamingLLM): the query sees S + W tokens
    and itself. Without FILE, or a flag that says otherwise, the built-in text
    is scored by the built-in model.
    """
    told = (questions, generate, prompt, prompt_file, recipe, resume)
    if not files and not chat and not any(told) and not set_ and processes() == 1 and piped():
        files = ["-"]
    flags = options.flags_of(model) | {
        "FILE": files or None, "field": field, "errors": errors, "bos": None if bos == "each" else bos,
        "bos each": True if bos == "each" else None, "each": each, "rows": number(rows),
        "chunk": number(chunk), "limit": limit, "by": by, "top": top, "save-as": save_as or None,
        "fail-on": fail_on or None, "questions": questions, "generate": number(generate), "prompt": prompt or None,
        "prompt-file": prompt_file or None, "chat": chat or None, "system": system,
        "template-arg": template_args(template_arg or []) or None,
        "temperature": number(temperature), "top-k": number(top_k), "top-p": number(top_p), "seed": seed,
        "min-p": number(min_p), "repetition-penalty": number(repetition_penalty),
        "no-repeat-ngram-size": number(no_repeat_ngram_size), "min-new-tokens": number(min_new_tokens),
    }  # fmt: skip
    with said_once():
        built = stream_recipe(
            flags, recipe=recipe, resume=resume, output=output, policies=policy or [], sinks=sinks, window=window,
            kv=kv or [], kv_keep=kv_keep or [], kv_recent=kv_recent, redistribute=redistribute or [],
            redistribute_heads=redistribute_heads, redistribute_text=redistribute_text or [], assignments=set_ or [],
        )  # fmt: skip
        chats = built.task == "generate" and built.chat
        output = kept_in(output, resume, "stream", keeps=not (dry_run or overwrite or chats))
        from sinkctl.check import check

        check(built, output=resume or output, resume=resume is not None, overwrite=overwrite)
    run = dict(output=resume or output, resume=resume is not None, as_json=as_json, quiet=quiet, dry_run=dry_run)
    from sinkctl.result.replaced import replacing

    with replacing(output if overwrite and not dry_run and first() else None, built.task):
        _run(built, **run)


def _run(built: Any, **run: Any) -> None:
    """By the task's own part of the command line."""
    if built.task == "stream":
        from sinkctl.cli.scoring import score

        score(built, **run)
    elif built.task == "questions":
        from sinkctl.cli.questions import run_questions

        run_questions(built, **run)
    elif built.chat:
        from sinkctl.cli.chat import chat as converse

        converse(built, **run)
    else:
        from sinkctl.cli.generate import run_generate

        run_generate(built, **run)
