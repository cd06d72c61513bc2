"""Where attention goes as a small Llama learns from random weights: every recipe convert/emergence_*, one a row.

    python benchmarks/emergence.py --train-text FILE --held-out FILE [--only softmax key_bias …] [--steps 2000]
        [--batch 128] [--length 512] [--decay 0 0.1 0.5 1] [--lr 1e-3 …] [--device cuda] [--output rows.jsonl]

--train-text is text or an .npy of token ids, --held-out a text that is not in it. --decay and --lr: softmax once more
with each. Sink_*: heads that give the mechanism more than 0.3 of attention; Sink_1: the first token that is no sink
token; of weights that are not normalised (sigmoid, elu), as there, once they are divided by their sum. Beside it what
Gu et al. found with 60 M parameters and 5 billion tokens. --output gets each row, its probes too, as soon as it is
there. Prints a table last.
"""

import argparse
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import sinkctl
from sinkctl.cli.loading import quiet_transformers
from sinkctl.cli.progress import parts_shown
from sinkctl.errors import SinkctlError
from sinkctl.metrics.sink_rate import EPSILON
from sinkctl.recipe.load import load
from sinkctl.recipe.named import find
from sinkctl.recipe.schema import ConvertRecipe, EvaluationSettings, TextFiles
from sinkctl.result.schema import Result
from sinkctl.tasks.convert.evaluate import SINK_LENGTH, SINK_SAMPLES
from sinkctl.tasks.convert.outcome import CONVERTED, fed
from sinkctl.text import TokenStream

# (Sink_* %, Sink_1 %, validation loss) of Gu et al. 2024, arXiv 2410.10781, tables 4 to 6; None: not stated there.
PUBLISHED = {
    "softmax": (None, 18.18, 3.73), "sink_token": (74.12, 0.0, 3.72), "kv_bias": (72.76, 0.04, 3.72),
    "key_bias": (73.34, 0.0, 3.72), "value_bias": (None, 17.53, 3.73), "sigmoid": (None, 0.44, 3.70),
    "sigmoid_normalised": (None, 30.24, 3.74), "elu": (None, 0.80, 3.69), "softmax1": (None, None, None),
    "gate": (None, None, None),
}  # fmt: skip
# Sink_1 % of their softmax by weight decay (0.1 elsewhere) and learning rate (4e-4 elsewhere).
PUBLISHED_DECAY = {0.0: 15.2, 0.1: 18.2, 0.5: 41.1, 1.0: 37.7, 2.0: 6.1, 5.0: 0.01}
PUBLISHED_LR = {8e-4: 32.2, 4e-4: 18.2, 2e-4: 11.2, 1e-4: 2.9}
COLUMNS = (
    ("loss", "valid_loss", "{:.3f}"), ("Sink_* %", "sink_star", "{:.1f}"), ("Sink_1 %", "sink_1", "{:.1f}"),
    ("largest |h|", "massive", "{:.0f}"), ("× median", "massive_ratio", "{:.0f}"),
    ("tokens/s", "tokens_per_second", "{:,.0f}"),
)  # fmt: skip
PROBES = 8  # at most, of a run


def main() -> None:
    quiet_transformers()
    options = arguments()
    rows = [(name, name, {}, PUBLISHED[name]) for name in PUBLISHED if not options.only or name in options.only]
    for decay in options.decay:
        rows.append((f"softmax, decay {decay:g}", "softmax", {"weight_decay": decay}, known(PUBLISHED_DECAY, decay)))
    for lr in options.lr:
        rows.append((f"softmax, lr {lr:g}", "softmax", {"lr": lr}, known(PUBLISHED_LR, lr)))
    found = []
    for label, name, changes, published in rows:
        row = {"row": label, "published": published, **trained(recipe_of(name, changes, options), options)}
        found.append(row)
        if options.output is not None:
            with options.output.open("a", encoding="utf-8") as kept:
                kept.write(json.dumps(row) + "\n")
        print(printed(row), flush=True)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() and options.device != "cpu" else "CPU"
    print(f"\n{device}, torch {torch.__version__}; {options.steps} steps of {options.batch} × {options.length} tokens")
    heads = [f"{head:>11}" for head, _, _ in COLUMNS]
    print(" | ".join([f"{'':22}", *heads, "Gu et al.: Sink_* %, Sink_1 %, loss"]))
    print("\n".join(map(printed, found)))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--train-text", nargs="+", required=True)
    parser.add_argument("--held-out", required=True)
    parser.add_argument("--only", nargs="*", choices=list(PUBLISHED), default=[])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--decay", type=float, nargs="*", default=[])
    parser.add_argument("--lr", type=float, nargs="*", default=[])
    parser.add_argument("--tokens", type=int, default=32768, help="held-out tokens that samples are taken from")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


def known(published: dict[float, float], setting: float) -> tuple[None, float | None, None]:
    return None, next((rate for at, rate in published.items() if math.isclose(at, setting)), None), None


def recipe_of(name: str, changes: dict[str, Any], options: argparse.Namespace) -> ConvertRecipe:
    """The built-in recipe at the size asked for, with a probe after its last step."""
    recipe = load(find(f"convert/emergence_{name}"))
    steps = options.steps
    own = {
        "text": TextFiles(files=tuple(options.train_text)), "batch": options.batch, "length": options.length,
        "warmup": min(recipe.training.warmup, steps // 10),
        "probe": next(every for every in range(math.ceil(steps / PROBES), steps + 1) if steps % every == 0),
    }  # fmt: skip
    return recipe.model_copy(
        update={
            "steps": steps,
            "model": recipe.model.model_copy(update={"device": options.device}),
            "text": TextFiles(files=(options.held_out,)),
            "training": recipe.training.model_copy(update=own | changes),
            "evaluation": EvaluationSettings(tokens=options.tokens, samples=options.tokens // 256 or 1),
        }
    )


def trained(recipe: ConvertRecipe, options: argparse.Namespace) -> dict[str, Any]:
    """A row's numbers, or the error that ended it."""

    try:
        with tempfile.TemporaryDirectory() as folder, parts_shown(Console(stderr=True)) as shown:
            output = Path(folder) / "out"
            found = numbers(sinkctl.convert(recipe, output=output, progress=shown).result)
            if recipe.sink.kind in ("sigmoid", "elu") and not getattr(recipe.sink, "normalise", False):
                found["sink_1"] = sink_1_of_shares(output, options)
            return found
    except SinkctlError as error:
        return {"error": str(error)}


def numbers(result: Result) -> dict[str, Any]:
    training, line = result.convert.training, fed(result.convert.checkpoints, CONVERTED)
    last = training.probes[-1]
    return {
        "valid_loss": None if line.perplexity is None else math.log(line.perplexity),
        "sink_star": last.mechanism_percent,
        "sink_1": last.sink_percent,
        "massive": line.massive,
        "massive_ratio": line.massive_ratio,
        "tokens_per_second": training.tokens_per_second,
        "attention": training.attention,
        "seconds": result.seconds,
        "training": result.recipe["training"],
        "steps": training.steps,
        "probes": [probe.model_dump() for probe in training.probes],
    }


@torch.no_grad()
def sink_1_of_shares(checkpoint: Path, options: argparse.Namespace) -> float:
    """Sink_1 in percent where each query's weights are divided by their sum, over spread samples of 64 tokens."""
    loaded = sinkctl.load(str(checkpoint), device=options.device)
    loaded.model.set_attn_implementation("eager")
    ids_T = torch.cat([torch.from_numpy(b.ids) for b in TokenStream((options.held_out,), loaded.tokenizer)])
    starts = torch.linspace(0, len(ids_T) - SINK_LENGTH, SINK_SAMPLES).long()
    ids_NT = ids_T[starts[:, None] + torch.arange(SINK_LENGTH)]
    ids_NT[:, 0] = loaded.bos_id
    sinks = []
    for map_NHTS in loaded.model(ids_NT.to(loaded.device), output_attentions=True).attentions:
        first_NHT = (map_NHTS[..., 0] / map_NHTS.sum(-1)).nan_to_num()
        sinks.append(first_NHT.mean(-1) > EPSILON)
    return 100 * float(torch.stack(sinks).float().mean())


def printed(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"{row['row']:22} | {row['error']}"
    shown = ["–" if row[name] is None else form.format(row[name]) for _, name, form in COLUMNS]
    theirs = ", ".join("–" if x is None else f"{x:.2f}" for x in row["published"])
    return " | ".join([f"{row['row']:22}", *(f"{text:>11}" for text in shown), theirs])


if __name__ == "__main__":
    main()
