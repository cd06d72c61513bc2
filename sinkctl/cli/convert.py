"""`sinkctl convert`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sinkctl.cli import completing, options, train_flags
from sinkctl.cli.build import MODEL, build, number
from sinkctl.cli.options import option
from sinkctl.cli.settings import kept_in
from sinkctl.errors import UsageError

_SINK, _TEXT, _STORED = "Mechanism", "Calibration and evaluation", "Checkpoint"
FIELDS = {
    "convert": MODEL | train_flags.FIELDS | {
        "images": "images", "text": "text.files", "field": "text.field", "errors": "text.errors",
        "window": "calibration.window",
        "samples": "calibration.samples", "steps": "steps", "store": "store", "eval": "evaluation.run",
        "eval-tokens": "evaluation.tokens", "eval-kv": "evaluation.kv_bits",
    }
}  # fmt: skip


@options.of_a_model(but=options.SPREAD)
def convert(
    checkpoint: Annotated[
        str | None, typer.Argument(metavar="[CHECKPOINT]", help="A folder, a GGUF file, a Hub id, or demo (default).")
    ] = None,
    to: Annotated[
        str | None,
        option(
            _SINK,
            "One of the mechanisms above; sink_logit is the default.",
            metavar="MECHANISM",
            complete=completing.mechanisms,
        ),
    ] = None,
    start: Annotated[
        str | None,
        option(
            _SINK,
            "What it begins with: match (default; of gates, exact) takes the first token's place; others are mean, "
            "warm, exact, zero, as the mechanism has them.",
            metavar="MODE",
        ),
    ] = None,
    bos: Annotated[
        str | None,
        option(
            _SINK,
            "The BOS token in front of texts: auto (default: dropped where the start takes its place), keep, drop.",
        ),
    ] = None,
    steps: train_flags.Steps = None,
    train_text: train_flags.TrainText = None,
    trained: train_flags.Trained = None,
    lr: train_flags.LR = None,
    sink_lr: train_flags.SinkLR = None,
    batch: train_flags.Batch = None,
    length: train_flags.Length = None,
    train_window: train_flags.TrainWindow = None,
    weight_decay: train_flags.WeightDecay = None,
    optimizer: train_flags.Optimizer = None,
    seed: train_flags.Seed = None,
    control: train_flags.Control = None,
    precision: train_flags.Precision = None,
    text: Annotated[
        list[str] | None,
        option(
            _TEXT,
            "Calibrates first, and evaluates further on (default: the built-in novel). May repeat.",
            metavar="FILE",
        ),
    ] = None,
    images: Annotated[
        list[str] | None,
        option(_TEXT, "Images or folders of them: what registers are found on and judged by.", metavar="FILE|DIR"),
    ] = None,
    field: Annotated[str | None, option(_TEXT, "Field of a .jsonl record (default: text).")] = None,
    errors: Annotated[str | None, option(_TEXT, "Bytes that are not UTF-8: strict or replace.")] = None,
    window: Annotated[
        str | None,
        option(
            _TEXT,
            "Window W that the start is made for; auto (default): half the context, at most 1020.",
            "--window",
            "-W",
        ),
    ] = None,
    samples: Annotated[int | None, option(_TEXT, "Samples to calibrate on, of 2W tokens (default 16).")] = None,
    evaluate: Annotated[
        bool | None, option(_TEXT, "Compare before and after on held-out text (default).", "--eval/--no-eval")
    ] = None,
    eval_tokens: Annotated[
        str | None, option(_TEXT, "Held-out tokens to stream; auto (default): 16 windows, or what the text holds.")
    ] = None,
    eval_kv: Annotated[
        list[str] | None,
        option(
            _TEXT,
            "Stream with keys and values in few bits too: 8bit, fp8, 4bit, 3bit or 2bit. May repeat.",
            metavar="PRECISION",
        ),
    ] = None,
    store: Annotated[
        str | None,
        option(_STORED, "auto (default: a class of transformers where one fits), stock, or code: with its own."),
    ] = None,
    output: Annotated[
        Path | None, option(_STORED, "Write the checkpoint here: a new folder.", "--output", "-o", metavar="DIR")
    ] = None,
    recipe: options.Recipe = None,
    set_: options.SetSink = None,
    fail_on: options.FailOnConverted = None,
    resume: train_flags.ResumeTraining = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    dry_run: options.DryRun = False,
    **model: Any,
) -> None:
    """Give a checkpoint a designed sink, train it or not, and write it so that stock tools load it.

    MECHANISM is one of
      sink_logit        a logit a head in the softmax's denominator (gpt-oss)
      softmax1          that logit fixed at 0 (off by one)
      sink_token        a token that the tokenizer puts in front of every text
      key_bias          a key that every query sees, of value 0
      kv_bias           a key and a value that every query sees
      value_bias        a constant on each head's output: a control, no sink
      score_bias        a bias on the first token's score
      gate              sigmoid gates on attention's output, values or input
      sigmoid           sigmoid of the scores, not normalised
      elu               elu of the scores + 1, not normalised
      softpick          relu(e^s - 1) over the sum of |e^s - 1|
      clipped_softmax   softmax stretched and cut, so that weights reach 0
      none              nothing; with --bos drop, the control
      test_time_registers
                        of a ViT or DINOv2, with --images: added tokens take
                        what makes patches outliers
      registers         of a DINOv2, with --images and --steps: added tokens
                        that learn, by distilling the original

    It begins with what the first token does for each head, measured on a text;
    where it takes that token's place, the tokenizer no longer puts it in front,
    and texts stream without a kept token (0+W). That takes no training; with
    --steps N it goes on from there on --train-text, and a control without the
    mechanism is trained just so, beside it. The checkpoints are compared on the
    text that follows. Recipes with `scratch` have more mechanisms, for random
    weights alone.
    """
    if model["model"] is not None and checkpoint is not None:
        raise UsageError(f"--model {model['model']}: the checkpoint is named already; leave one out")
    flags = options.flags_of(model) | {
        "model": checkpoint or model["model"], "text": text or None, "images": images or None,
        "field": field, "errors": errors, "window": number(window), "samples": samples, "steps": steps,
        "store": store, "eval": evaluate, "eval-tokens": number(eval_tokens),
        "eval-kv": _bits(eval_kv or []), "fail-on": fail_on or None,
        "train-text": train_text or None, "train-window": number(train_window), "trained": trained, "lr": lr,
        "sink-lr": sink_lr, "batch": batch, "length": number(length), "weight-decay": weight_decay,
        "optimizer": optimizer, "seed": seed, "control": control, "precision": precision,
    }  # fmt: skip
    built = build(
        flags, FIELDS, "convert", recipe=recipe, resume=resume, output=output, assignments=set_ or [],
        complete=lambda data: _mechanism(data, to, {"start": start, "bos": bos}),
        named={
            ("sink", field): f"--{flag}"
            for field, flag, value in (("kind", "to", to), ("start", "start", start), ("bos", "bos", bos))
            if value is not None
        },
    )  # fmt: skip
    train_flags.check_trained(built, flags)
    output = kept_in(output, resume, "convert", keeps=not dry_run)
    if output is None and resume is None and not dry_run:
        raise UsageError("--output: say where the checkpoint goes, -o DIR")
    from sinkctl.check import check

    check(built, output=resume or output, resume=resume is not None)
    from sinkctl.cli.converting import run_convert

    run_convert(
        built, output=resume or output, resume=resume is not None, as_json=as_json, quiet=quiet, dry_run=dry_run
    )


def _bits(precisions: list[str]) -> list[int | str] | None:
    """Of --eval-kv, as a recipe has them."""
    from sinkctl.recipe.shorthand import bits

    if "full" in precisions:
        raise UsageError("--eval-kv full: streams in full are compared in any case; leave it out")
    return [bits(each, "--eval-kv") for each in precisions] or None


def _mechanism(data: dict[str, Any], to: str | None, settings: dict[str, str | None]) -> None:
    """--to and the settings of the mechanism; another than the recipe's begins without the recipe's settings."""
    sink = data.get("sink")
    if sink is None or (isinstance(sink, dict) and to not in (None, sink.get("kind"))):
        sink = data["sink"] = {"kind": to or "sink_logit"}
    if isinstance(sink, dict):
        sink |= {name: value for name, value in settings.items() if value is not None}
