"""Every mechanism of `sinkctl convert` on the built-in model: its start, then fine-tuned, beside its control.

    python benchmarks/convert_finetuned.py --train-text FILE [--text FILE] [--steps 300] [--only sink_logit kv_bias …]

One conversion a row: every weight trained for --steps on the same sequences, and so the control, which has no
mechanism. All are calibrated on the same tokens and judged by the same held-out ones. Streamed: perplexity with a cache
of 256 tokens, nothing kept and nothing in front, unless that is a sink token. Samples: the stock model on 256 tokens,
the second halves scored; KL from the original with its BOS. Prints a table last.
"""

import argparse
import platform
import tempfile
from pathlib import Path


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train-text", nargs="+", required=True)
    parser.add_argument("--text", nargs="*", default=[])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--train-lr", type=float, default=3e-4)
    parser.add_argument("--tokens", type=int, default=18600)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32")
    return parser.parse_args()


if __name__ == "__main__":
    flags()  # first: importing torch takes seconds

import torch

import sinkctl
from sinkctl.cli.loading import quiet_transformers
from sinkctl.result.convert import ConvertDetail
from sinkctl.result.schema import Result
from sinkctl.tasks.convert.outcome import CONTROL, CONVERTED, ORIGINAL, START, fed, meant, streamed

ROWS = (
    ("sink_logit", {}), ("sink_logit", {"start": "zero", "bos": "drop"}), ("softmax1", {}), ("key_bias", {}),
    ("kv_bias", {}), ("value_bias", {"start": "match"}), ("gate", {"start": "match"}),
    ("gate", {"start": "exact", "bos": "drop"}),
    ("softpick", {}), ("clipped_softmax", {}), ("sigmoid", {}), ("elu", {}), ("sink_token", {}),
    ("sink_token", {"start": "mean"}),
)  # fmt: skip
LABELS = (START, CONVERTED, CONTROL)
COLUMNS = (*(f"{what} {label}" for what in ("streamed", "samples") for label in LABELS), "Sink_1 %", "taken", "KL")


def main() -> None:
    options = flags()
    quiet_transformers()
    loaded, lines, first = sinkctl.load("demo", device=options.device, dtype=options.dtype), [], None
    training = {
        "text": {"files": options.train_text}, "batch": options.batch, "length": options.length, "lr": options.train_lr
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for number, (kind, settings) in enumerate(ROWS):
            if options.only and kind not in options.only:
                continue
            done = sinkctl.convert(
                loaded, to=kind, output=Path(folder) / str(number), text=options.text, steps=options.steps,
                training=training, progress=lambda now: None, evaluation={"tokens": options.tokens, "samples": 64},
                **settings,
            )  # fmt: skip
            detail = done.result.convert
            first = first or done.result
            said = ", ".join(f"{name} {value}" for name, value in settings.items())
            lines.append(row(f"{kind}{f' ({said})' if said else ''}", detail))
            print(lines[-1], flush=True)
    if first is not None:
        device = torch.cuda.get_device_name() if loaded.device.type == "cuda" else platform.processor() or "CPU"
        summary(device, first, lines)


def summary(device: str, first: Result, lines: list[str]) -> None:
    detail, training = first.convert, first.convert.training
    print(
        f"\n{device}, torch {torch.__version__}, {training.precision}; {training.steps} steps of {training.batch} × "
        f"{training.length} tokens, window {training.window}, {training.tokens_per_second:,.0f} tokens/s; "
        f"{detail.held_out:,} tokens streamed, {detail.scored:,} of samples"
    )
    for sinks in ("1+", "4+", "0+"):
        line = streamed(detail.streams, ORIGINAL, sinks)
        print(f"original, {line.policy}, {line.first} in front: {shown(line.perplexity)} streamed")
    print(f"original, samples: {shown(fed(detail.checkpoints, ORIGINAL).perplexity)}")
    print(" | ".join([f"{'':34}", *(f"{name:>18}" for name in COLUMNS)]))
    print("\n".join(lines))


def row(name: str, detail: ConvertDetail) -> str:
    lines = [fed(detail.checkpoints, label) for label in LABELS]
    trained = lines[1]
    numbers = [
        *(getattr(meant(detail.streams, label), "perplexity", None) for label in LABELS),
        *(getattr(line, "perplexity", None) for line in lines),
        trained.sink_percent, trained.mechanism_mass, trained.kl,
    ]  # fmt: skip
    return " | ".join([f"{name:34}", *(f"{shown(x):>18}" for x in numbers)])


def shown(x: float | None) -> str:
    return "–" if x is None else f"{x:.3f}"


if __name__ == "__main__":
    main()
