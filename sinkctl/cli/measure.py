"""`sinkctl measure`."""

from typing import Annotated, Any

import typer

from sinkctl.cli import options
from sinkctl.cli.build import MODEL, build, number
from sinkctl.cli.options import option
from sinkctl.cli.settings import kept_in
from sinkctl.errors import UsageError
from sinkctl.launched import first

_INPUT, _MEASURE = "Input", "Measurement"
FIELDS = {
    "measure": MODEL | {
        "CHECKPOINT": "checkpoints", "revisions": "revisions", "input": "input.kinds", "text": "input.files",
        "images": "input.files", "audio": "input.files", "field": "input.field", "errors": "input.errors",
        "bos": "input.bos", "samples": "input.samples", "length": "input.length", "seed": "input.seed",
        "epsilon": "epsilon", "suspect": "suspect.file", "only": "parts", "cost": "cost.run", "batch": "batch",
        "budget": "budget", "save-as": "save_as",
    }
}  # fmt: skip


@options.of_a_model(but=["revision"], adapter=options.AdapterBeside)
def measure(
    checkpoints: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CHECKPOINT]...", help="Folders, Hub ids, demo, or folders of checkpoint-*."),
    ] = None,
    input: Annotated[
        list[str] | None,
        option(_INPUT, "natural (default), random, repeat (one token repeated). May repeat.", "--input", "-i"),
    ] = None,
    text: Annotated[
        list[str] | None,
        option(_INPUT, "Text to take samples from (default: the built-in novel). May repeat.", metavar="FILE"),
    ] = None,
    images: Annotated[
        list[str] | None,
        option(
            _INPUT,
            "Images or folders of them, for vision models (default: noise), or beside text.",
            metavar="FILE|DIR",
        ),
    ] = None,
    audio: Annotated[
        list[str] | None,
        option(_INPUT, "Sound (.wav) or folders of it, for speech models (default: synthetic).", metavar="FILE|DIR"),
    ] = None,
    field: Annotated[str | None, option(_INPUT, "Field of a .jsonl record, each a sample (default: text).")] = None,
    errors: Annotated[str | None, option(_INPUT, "Bytes that are not UTF-8: strict or replace.")] = None,
    bos: Annotated[
        str | None, option(_INPUT, "both (default), auto (as the tokenizer does), on, off; of encoders, [CLS].")
    ] = None,
    samples: Annotated[int | None, option(_INPUT, "Samples of each kind (default 100).")] = None,
    length: Annotated[int | None, option(_INPUT, "Tokens a sample (default 64).")] = None,
    seed: Annotated[int | None, option(_INPUT, "Of the random tokens (default 0).")] = None,
    epsilon: Annotated[
        list[float] | None, option(_MEASURE, "Mean attention above which a head sinks (default 0.3). May repeat.")
    ] = None,
    only: Annotated[
        list[str] | None, option(_MEASURE, "attention or activations; both are the default.", "--only")
    ] = None,
    cost: Annotated[
        bool | None, option(_MEASURE, "What the sink buys: keys hidden, activations zeroed, streams without it.")
    ] = None,
    suspect: Annotated[
        str | None,
        option(
            _MEASURE,
            "Trigger candidates, one a line: what each does to the sinks, beside random tokens.",
            metavar="FILE",
        ),
    ] = None,
    batch: Annotated[str | None, option(_MEASURE, "Samples a forward pass takes; the result does not change.")] = None,
    budget: Annotated[
        str | None, option(_MEASURE, "Time it may take, such as 60s or 5m: sizes are chosen by it.", metavar="TIME")
    ] = None,
    revision: Annotated[
        list[str] | None,
        typer.Option(help="Branch, tag or commit of a Hub id; several are compared.", rich_help_panel="Model"),
    ] = None,
    recipe: options.Recipe = None,
    set_: options.Set = None,
    fail_on: options.FailOnSinks = None,
    plots: Annotated[
        str | None, typer.Option(help="Write the pictures as png or svg files too (with --output).", metavar="png|svg")
    ] = None,
    save_as: Annotated[
        list[str] | None,
        typer.Option(
            help="With -o: every head with its numbers, as heads.csv or heads.jsonl. May repeat.", metavar="csv|jsonl"
        ),
    ] = None,
    output: options.Output = None,
    overwrite: options.Overwrite = False,
    resume: options.Resume = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    dry_run: options.DryRun = False,
    **model: Any,
) -> None:
    """Where a checkpoint's attention sinks are, how strong, what carries them, what they cost.

    α of a token is what it receives from itself and all later tokens, a mean;
    a head sinks on it where α > ε (Sink_k^ε, Gu et al. 2024). Exact at any
    length, for every head, without a T×T map; besides, massive activations,
    value drain, entropy, head classes and their kin. Several CHECKPOINTs come
    side by side. Without one, the built-in model is measured on the built-in
    text, with BOS and without.
    """
    if model["model"] is not None and checkpoints:
        raise UsageError(f"--model {model['model']}: the checkpoints are named already; leave one out")
    if audio and (text or images):
        raise UsageError(f"--audio and {'--text' if text else '--images'}: a model takes one or the other")
    if images or audio:
        from sinkctl.check.measure import check_kinds

        check_kinds(images or (), audio or ())
    if images and text:  # for a model that takes both
        images, text = [*images, *text], None
    if plots is not None and plots not in ("png", "svg"):
        raise UsageError(f"--plots {plots}: png or svg")
    several = revision if revision and len(revision) > 1 else None
    flags = options.flags_of(model) | {
        "revision": revision[0] if revision and not several else None, "revisions": several,
        "CHECKPOINT": checkpoints or None, "input": input or None,
        "text": text or None, "images": images or None, "audio": audio or None, "field": field, "errors": errors,
        "bos": bos, "samples": samples, "length": length, "seed": seed, "epsilon": epsilon or None,
        "only": only or None, "cost": cost, "suspect": suspect, "batch": number(batch),
        "budget": budget, "save-as": save_as or None, "fail-on": fail_on or None,
    }  # fmt: skip
    built = build(
        flags, FIELDS, "measure", recipe=recipe, resume=resume, output=output, assignments=set_ or [],
    )  # fmt: skip
    output = kept_in(output, resume, "measure", keeps=not (dry_run or overwrite))
    if plots is not None and output is None and resume is None:
        raise UsageError("--plots writes into the run folder; name one with --output")
    from sinkctl.check import check

    check(built, output=resume or output, resume=resume is not None, loads=not dry_run, overwrite=overwrite)
    if dry_run:
        from sinkctl.check.measure import check_local

        check_local(built)
    from sinkctl.cli.measuring import run_measure
    from sinkctl.result.replaced import replacing

    with replacing(output if overwrite and not dry_run and first() else None, built.task):
        run_measure(
            built, output=resume or output, resume=resume is not None, as_json=as_json, quiet=quiet, dry_run=dry_run,
            plots=plots,
        )  # fmt: skip
