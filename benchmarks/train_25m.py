"""A Llama of 26 M parameters from random weights, and what it takes to let it stream without its first token.

    python benchmarks/train_25m.py --train-text FILE --held-out FILE [--steps 4000] [--tune-steps 400] [--output DIR]

Three runs, one after the other: pre-training with the built-in tokenizer, a BOS token in front and full attention; a
sink logit in that token's place, its start computed; the same with every weight tuned to it in windows, beside a
control without it. --train-text is text or an .npy of token ids, --held-out a text that is not in it. With --output the
checkpoints stay, and what was stopped goes on. Prints tables last.
"""

import argparse
import tempfile
from pathlib import Path

CONTEXT = 512


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train-text", nargs="+", required=True)
    parser.add_argument("--held-out", required=True)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--length", type=int, default=CONTEXT)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--decay", type=float, default=0.5)
    parser.add_argument("--tune-steps", type=int, default=400)
    parser.add_argument("--tune-batch", type=int, default=64)
    parser.add_argument("--tune-lr", type=float, default=4e-4)
    parser.add_argument("--tokens", type=int, default=32768, help="held-out tokens streamed")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    flags()  # first: importing torch takes seconds

import torch
from rich.console import Console

import sinkctl
from sinkctl.cli.loading import quiet_transformers
from sinkctl.cli.progress import parts_shown
from sinkctl.model.settings import ModelSettings
from sinkctl.recipe.schema import ConvertRecipe, EvaluationSettings, TextFiles, TrainingSettings
from sinkctl.result.convert import ConvertDetail
from sinkctl.result.schema import Result
from sinkctl.result.store import RESULT
from sinkctl.sinks.none import NoSink
from sinkctl.sinks.sink_logit import SinkLogit
from sinkctl.tasks.convert.outcome import CONTROL, CONVERTED, ORIGINAL, streamed

SHAPE = dict(
    model_type="llama", hidden_size=384, num_hidden_layers=12, num_attention_heads=6, num_key_value_heads=2,
    head_dim=64, intermediate_size=1408, max_position_embeddings=CONTEXT, rms_norm_eps=1e-6, tie_word_embeddings=True,
    rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
)  # fmt: skip
# 12 × (384 × (2 × 384 + 2 × 128) + 3 × 384 × 1408 + 2 × 384) + 384 + 4096 × 384, with the vocabulary of `demo`
PARAMETERS = 25_765_248


def main() -> None:
    quiet_transformers()
    options = flags()
    with tempfile.TemporaryDirectory() as folder:
        root = options.output or Path(folder)
        pretrained = converted("pretrained", pretraining(options), root)
        free = converted("training-free", conversion(root, options), root)
        tuned = converted("fine-tuned", tuning(root, options), root)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() and options.device != "cpu" else "CPU"
    print(f"\n{device}, torch {torch.__version__}")
    print(f"pre-trained, {PARAMETERS:,} parameters: {speed(pretrained)}")
    print(f"training-free sink logit: {free.seconds:,.0f} s")
    print(f"fine-tuned sink logit and its control: {speed(tuned)}")
    print("\n".join(streams_of(free.convert, "training-free") + streams_of(tuned.convert, "fine-tuned", {CONTROL})))
    print("\n".join(dependence(tuned.convert)))
    print("\n".join(samples_of(free.convert, "training-free") + samples_of(tuned.convert, "fine-tuned", {CONTROL})))


def converted(name: str, recipe: ConvertRecipe, root: Path) -> Result:
    """What the recipe gives in `root`/`name`: kept from before, gone on with, or new."""
    folder = root / name
    if (folder / RESULT).exists():
        kept = Result.model_validate_json((folder / RESULT).read_text(encoding="utf-8"))
        if kept.complete:
            print(f"{name}: kept from before")
            return kept

    with parts_shown(Console(stderr=True)) as shown:
        result = sinkctl.convert(recipe, output=folder, resume=folder.exists(), progress=shown).result
    print("\n".join([f"{name}, {result.seconds:,.0f} s:", *result.verdict]), flush=True)
    return result


def pretraining(options: argparse.Namespace) -> ConvertRecipe:
    training = TrainingSettings(
        text=TextFiles(files=options.train_text), batch=options.batch, length=options.length, window="full",
        boundaries="none", lr=options.lr, weight_decay=options.decay, control=False,
    )  # fmt: skip
    return ConvertRecipe(
        model=ModelSettings(device=options.device), scratch=SHAPE, sink=NoSink(bos="keep"), steps=options.steps,
        training=training, **judged(options),
    )  # fmt: skip


def conversion(root: Path, options: argparse.Namespace) -> ConvertRecipe:
    model = ModelSettings(name=str(root / "pretrained"), device=options.device)
    return ConvertRecipe(model=model, sink=SinkLogit(), **judged(options))


def tuning(root: Path, options: argparse.Namespace) -> ConvertRecipe:
    training = TrainingSettings(
        text=TextFiles(files=options.train_text), batch=options.tune_batch, length=options.length, boundaries="none",
        lr=options.tune_lr, weight_decay=options.decay,
    )  # fmt: skip
    return conversion(root, options).model_copy(update={"steps": options.tune_steps, "training": training})


def judged(options: argparse.Namespace) -> dict[str, object]:
    samples = max(1, options.tokens // 256)
    return {
        "text": TextFiles(files=(options.held_out,)),
        "evaluation": EvaluationSettings(tokens=options.tokens, samples=samples),
    }


def speed(result: Result) -> str:
    training = result.convert.training
    seconds = ", ".join(f"{curve.checkpoint} {curve.seconds:,.0f} s" for curve in training.curves)
    return (
        f"{training.steps:,} steps of {training.batch} × {training.length} tokens, {training.precision}; {seconds} of "
        f"{result.seconds:,.0f} s; {training.tokens_per_second:,.0f} tokens/s; attention {training.attention}"
    )


def streams_of(detail: ConvertDetail, name: str, also: set[str] = frozenset()) -> list[str]:
    """Perplexities with a full cache, and in that of the original with its first token kept."""
    kept = streamed(detail.streams, ORIGINAL, "1+").perplexity
    first = also or {ORIGINAL}
    head = [] if also else [f"\n{'streamed':16} {'cache':8} {'in front':24} perplexity  × original kept"]
    return head + [
        f"{name if line.checkpoint == CONVERTED else line.checkpoint:16} {line.policy:8} {line.first:24} "
        f"{number(line.perplexity):>10}  {number(line.perplexity and line.perplexity / kept)}"
        for line in detail.streams
        if line.checkpoint in first | {CONVERTED}
    ]


def dependence(detail: ConvertDetail) -> list[str]:
    """What each checkpoint loses without kept tokens, beside its first four kept."""
    said = []
    for label in (ORIGINAL, CONVERTED, CONTROL):
        four, bare = (streamed(detail.streams, label, sinks) for sinks in ("4+", "0+"))
        if four is not None and bare is not None and four.perplexity and bare.perplexity:
            name = "fine-tuned" if label == CONVERTED else label
            said.append(f"{name}: {bare.policy} is {bare.perplexity / four.perplexity:.3f} × {four.policy}")
    return ["", *said]


def samples_of(detail: ConvertDetail, name: str, also: set[str] = frozenset()) -> list[str]:
    columns = ("perplexity", "kl", "sink_percent", "mechanism_mass", "massive", "massive_ratio", "kurtosis")
    head = [] if also else ["\n" + " ".join([f"{'samples':16} {'in front':12}", *(f"{each:>14}" for each in columns)])]
    return head + [
        " ".join(
            [
                f"{name if line.checkpoint == CONVERTED else line.checkpoint:16} {line.first:12}",
                *(f"{number(getattr(line, each)):>14}" for each in columns),
            ]
        )
        for line in detail.checkpoints
        if line.checkpoint in (also or {ORIGINAL}) | {CONVERTED}
    ]


def number(x: float | None) -> str:
    return "–" if x is None else f"{x:.4g}"


if __name__ == "__main__":
    main()
