"""Every mechanism of `sinkctl convert` on the built-in model, with no training, beside what it starts from.

    python benchmarks/convert_mechanisms.py [--tokens 18600] [--text FILE] [--only sink_logit kv_bias …]

One conversion a row, all calibrated on the same tokens and judged by the same held-out ones. Streamed: perplexity with
a cache of 256 tokens, nothing kept and nothing in front unless a row says so. Samples: the stock model on 256 tokens,
the second halves scored; KL from the original with its BOS. Prints a table last.
"""

import argparse
import platform
import tempfile
from pathlib import Path


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=18600)
    parser.add_argument("--text", nargs="*", default=[])
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32")
    return parser.parse_args()


if __name__ == "__main__":
    flags()  # first: importing torch takes seconds

import torch

import sinkctl
from sinkctl.result.convert import CheckpointLine, ConvertDetail, StreamedLine

ROWS = (
    ("sink_logit", {}), ("sink_logit", {"bias": False}), ("sink_logit", {"start": "mean", "bias": False}),
    ("sink_logit", {"start": "warm"}), ("sink_logit", {"start": "exact"}), ("softmax1", {}),
    ("softmax1", {"start": "zero"}),
    ("key_bias", {}), ("key_bias", {"bias": False}), ("kv_bias", {}), ("value_bias", {"start": "match"}),
    ("gate", {"start": "match"}), ("gate", {"start": "match", "bias": False}),
    ("gate", {"start": "match", "form": "elementwise"}), ("gate", {}), ("gate", {"place": "value"}),
    ("gate", {"place": "input"}), ("softpick", {}), ("softpick", {"start": "zero"}), ("clipped_softmax", {}),
    ("clipped_softmax", {"start": "zero"}), ("sigmoid", {}), ("sigmoid", {"mix": 0.2}), ("sigmoid", {"start": "zero"}),
    ("elu", {}), ("elu", {"mix": 0.2}), ("score_bias", {}), ("sink_token", {}), ("none", {"bos": "drop"}),
)  # fmt: skip
COLUMNS = ("streamed", "samples", "KL", "Sink_1 %", "α max", "taken", "largest |h|")


def main() -> None:
    options = flags()
    loaded, lines, first = sinkctl.load("demo", device=options.device, dtype=options.dtype), [], None
    with tempfile.TemporaryDirectory() as folder:
        for number, (kind, settings) in enumerate(ROWS):
            if options.only and kind not in options.only:
                continue
            done = sinkctl.convert(
                loaded, to=kind, output=Path(folder) / str(number), text=options.text, progress=lambda now: None,
                evaluation={"tokens": options.tokens, "samples": 64}, **settings,
            )  # fmt: skip
            detail = done.result.convert
            first = detail if first is None else first
            said = ", ".join(f"{name} {value}" for name, value in settings.items())
            lines.append(
                row(f"{kind}{f' ({said})' if said else ''}", ours(detail), detail.checkpoints[-1], detail.stored)
            )
            print(lines[-1], flush=True)
    device = torch.cuda.get_device_name() if loaded.device.type == "cuda" else platform.processor() or "CPU"
    counted = f"{first.held_out:,} tokens streamed, {first.scored:,} of samples"
    print(f"\n{device}, torch {torch.__version__}, {options.dtype}; {counted}")
    print(" | ".join([f"{'':48}", *COLUMNS, "stored"]))
    kept, bare = first.streams[:2]
    print(row(f"original, BOS kept ({kept.policy})", kept, first.checkpoints[0], ""))
    print(row(f"original, nothing kept ({bare.policy})", bare, first.checkpoints[1], ""))
    print("\n".join(lines))


def ours(detail: ConvertDetail) -> StreamedLine:
    """The converted checkpoint with nothing kept, or with its sink token."""
    return next(s for s in detail.streams if s.checkpoint == "converted" and s.first in ("sink token", "nothing"))


def row(name: str, streamed: StreamedLine, line: CheckpointLine, stored: str) -> str:
    of_line = line.perplexity, line.kl, line.sink_percent, line.alpha_max, line.mechanism_mass, line.massive
    numbers = streamed.perplexity, *of_line
    shown = ["–" if x is None else f"{x:.3f}" for x in numbers]
    return " | ".join([f"{name:48}", *(f"{text:>9}" for text in shown), stored.partition(":")[0]])


if __name__ == "__main__":
    main()
