"""When sinks emerge as a small Llama learns from random weights: each recipe convert/emergence/* a row.

    python benchmarks/emergence.py --train-text FILE --held-out FILE --folder DIR [--only softmax 'decay_*' …]
        [--seeds 1] [--steps 2000] [--batch 128] [--length 512] [--device cuda] [--list] [--table]

--train-text is text or an .npy of token ids, --held-out a text that is not in it; rows that differ in how documents are
packed need several of them (a .jsonl file, or several files). --only takes names and patterns; without it all rows run.
A row that is finished is kept in DIR and not run again; one that was stopped goes on. --steps, --batch and --length are
those of the softmax row; others keep their ratio to it (half the rate, twice the steps). --seeds 3: every row with
training.seed 0, 1, 2. --list prints the rows, --table the table of what DIR holds, without running anything.

Sink_*: heads that give the mechanism more than 0.3 of attention; Sink_1: the first token that is no sink token; of
weights that do not sum to 1, as there, once their sizes are divided by their sum. The last column says whether the
effect on Sink_1 (where marked, on Sink_*) has the same sign there: agree, not, within chance (no larger than what seeds
differ by), not run; – where no number is published. Numbers beside ours: Gu et al. 2024, by emergence_rows.py.
With a prefix that every query sees, Sink_* is of any of its tokens, and the loss that of samples of 64 behind it
(its curve over steps is read without).
"""

import argparse
import json
import math
import os
import platform
import shutil
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from emergence_rows import BASELINE, Seeds, compared, published
from rich.console import Console

import sinkctl
from sinkctl.cli.loading import quiet_transformers
from sinkctl.cli.progress import parts_shown
from sinkctl.errors import SinkctlError
from sinkctl.metrics.sink_rate import EPSILON
from sinkctl.recipe.load import load
from sinkctl.recipe.named import built_in, find
from sinkctl.recipe.schema import ConvertRecipe, EvaluationSettings, TextFiles
from sinkctl.result.schema import Result
from sinkctl.result.store import CHECKPOINT, STATE
from sinkctl.tasks.convert.evaluate import SINK_LENGTH, SINK_SAMPLES
from sinkctl.tasks.convert.outcome import CONVERTED, fed
from sinkctl.text import TokenStream

ROWS = "convert/emergence/"
COLUMNS = (
    ("loss", "valid_loss", "{:.3f}"), ("Sink_* %", "sink_star", "{:.1f}"), ("Sink_1 %", "sink_1", "{:.1f}"),
    ("largest |h|", "massive", "{:.0f}"), ("× median", "massive_ratio", "{:.0f}"), ("kurtosis", "kurtosis", "{:.0f}"),
    ("tokens/s", "tokens_per_second", "{:,.0f}"),
)  # fmt: skip
PROBES = 8  # at most, of a run


def main() -> None:
    quiet_transformers()
    options = arguments()
    names = chosen(options.only)
    if options.list:
        print("\n".join(names))
        return
    if not options.table:
        options.folder.mkdir(parents=True, exist_ok=True)
        for seed in range(options.seeds):
            for name in names:
                print(printed_row(name, [run(name, seed, options)]), flush=True)
    print_table(names, options)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--train-text", nargs="+", default=[])
    parser.add_argument("--held-out")
    parser.add_argument("--folder", type=Path, help="where finished rows are kept")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--length", type=int)
    parser.add_argument("--tokens", type=int, default=32768, help="held-out tokens that samples are taken from")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if not options.list and options.folder is None:
        parser.error("--folder: name one, where finished rows are kept")
    if not (options.list or options.table) and not (options.train_text and options.held_out):
        parser.error("--train-text and --held-out: give both")
    return options


def chosen(only: Sequence[str]) -> list[str]:
    """Rows that match, the baseline first."""
    rows = sorted(name.removeprefix(ROWS) for name in built_in() if name.startswith(ROWS))
    nothing = next((pattern for pattern in only if not any(fnmatch(row, pattern) for row in rows)), None)
    if nothing is not None:
        raise SystemExit(f"--only {nothing}: no such row; --list prints them")
    wanted = [row for row in rows if not only or any(fnmatch(row, pattern) for pattern in only)]
    return sorted(wanted, key=lambda row: row != BASELINE)


def recipe_of(name: str, seed: int, options: argparse.Namespace) -> ConvertRecipe:
    """The built-in recipe at the size asked for, with a probe after its last step."""
    recipe, whole = load(find(ROWS + name)), load(find(ROWS + BASELINE))
    steps = scaled(recipe.steps, options.steps, whole.steps)
    settings, own = recipe.training, whole.training
    batch, length = scaled(settings.batch, options.batch, own.batch), options.length or settings.length
    unique = settings.unique
    if unique is not None:
        seen = steps * batch * length / (recipe.steps * settings.batch * settings.length)
        unique = max(length + 1, round(unique * seen))
    changes = {
        "text": TextFiles(files=tuple(options.train_text)), "batch": batch, "length": length, "seed": seed,
        "unique": unique, "warmup": min(settings.warmup, steps // 10),
        "probe": next(every for every in range(math.ceil(steps / PROBES), steps + 1) if steps % every == 0),
    }  # fmt: skip
    return recipe.model_copy(
        update={
            "steps": steps,
            "model": recipe.model.model_copy(update={"device": options.device}),
            "text": TextFiles(files=(options.held_out,)),
            "training": settings.model_copy(update=changes),
            "evaluation": EvaluationSettings(tokens=options.tokens, samples=options.tokens // 256 or 1),
        }
    )


def scaled(own: int, asked: int | None, whole: int) -> int:
    return own if asked is None else max(1, round(own * asked / whole))


def run(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """A row's numbers: kept ones where they are of the same recipe, else of a run; or the error that ended it."""
    recipe = recipe_of(name, seed, options)
    said = recipe.model_dump(mode="json", exclude={"model": {"device"}})
    kept, folder = place(options.folder, name, seed), options.folder / f"{name}-{seed}.running"
    if kept.exists():
        row = json.loads(kept.read_text(encoding="utf-8"))
        if row["recipe"] == said:
            return row
        raise SystemExit(f"{kept}: is of other settings; name another --folder, or remove it")
    resumed = (folder / STATE / CHECKPOINT).exists()
    if folder.exists() and not resumed:
        shutil.rmtree(folder)
    try:
        with parts_shown(Console(stderr=True)) as shown:
            found = numbers(sinkctl.convert(recipe, output=folder, resume=resumed, progress=shown).result)
        kind, normalised = recipe.sink.kind, getattr(recipe.sink, "normalise", False)
        if kind in ("kernel", "normaliser") or (kind in ("sigmoid", "elu") and not normalised):
            found["sink_1"] = sink_1_of_shares(folder, options)
        if recipe.training.prefix is not None:
            found |= with_prefix(folder, recipe.training.prefix, options)
    except SinkctlError as error:
        return {"error": str(error)}
    row = {"row": name, "seed": seed, "machine": machine(options), **found, "recipe": said}
    unfinished = kept.with_suffix(".part")
    unfinished.write_text(json.dumps(row, indent=1), encoding="utf-8")
    os.replace(unfinished, kept)
    shutil.rmtree(folder)
    return row


def place(folder: Path, name: str, seed: int) -> Path:
    return folder / f"{name}-{seed}.json"


def machine(options: argparse.Namespace) -> str:
    cuda = torch.cuda.is_available() and options.device != "cpu"
    device = torch.cuda.get_device_name() if cuda else f"{os.cpu_count()} cores CPU ({platform.machine()})"
    return f"{device}, torch {torch.__version__}"


def numbers(result: Result) -> dict[str, Any]:
    training, line = result.convert.training, fed(result.convert.checkpoints, CONVERTED)
    last = training.probes[-1]
    return {
        "valid_loss": None if line.perplexity is None else math.log(line.perplexity),
        "sink_star": last.mechanism_percent,
        "sink_1": last.sink_percent,
        "massive": line.massive,
        "massive_ratio": line.massive_ratio,
        "kurtosis": line.kurtosis,
        "tokens_per_second": training.tokens_per_second,
        "attention": training.attention,
        "seconds": result.seconds,
        "steps": training.steps,
        "probes": [probe.model_dump() for probe in training.probes],
    }


@torch.no_grad()
def sink_1_of_shares(checkpoint: Path, options: argparse.Namespace) -> float:
    """Sink_1 in percent where sizes of weights are divided by their sum, a query, over spread samples of 64 tokens."""
    loaded, ids_NT = loaded_and_samples(checkpoint, SINK_SAMPLES, SINK_LENGTH, options)
    sinks = []
    for map_NHTS in loaded.model(ids_NT, output_attentions=True).attentions:
        size_NHTS = map_NHTS.abs()
        first_NHT = (size_NHTS[..., 0] / size_NHTS.sum(-1)).nan_to_num()
        sinks.append(first_NHT.mean(-1) > EPSILON)
    return 100 * float(torch.stack(sinks).float().mean())


@torch.no_grad()
def with_prefix(checkpoint: Path, prefix: int, options: argparse.Namespace) -> dict[str, float]:
    """Sink_1, heads that sink on any token of the prefix, and the loss behind it, where every query sees the prefix."""
    loaded, ids_NT = loaded_and_samples(checkpoint, SINK_SAMPLES, SINK_LENGTH, options)
    shown_TT = torch.ones(SINK_LENGTH, SINK_LENGTH, device=loaded.device).tril().bool()
    shown_TT[:, :prefix] = True
    mask_TT = torch.zeros_like(shown_TT, dtype=loaded.dtype).masked_fill(~shown_TT, torch.finfo(loaded.dtype).min)
    found = loaded.model(
        ids_NT, attention_mask=mask_TT.expand(len(ids_NT), 1, -1, -1), output_attentions=True, use_cache=False
    )
    alpha_LNHk = torch.stack([map_NHTS[..., :prefix].float().mean(2) for map_NHTS in found.attentions])
    logits_nV = found.logits[:, prefix - 1 : -1].float().flatten(0, 1)
    return {
        "sink_1": 100 * float((alpha_LNHk[..., 0] > EPSILON).float().mean()),
        "sink_star": 100 * float((alpha_LNHk.amax(-1) > EPSILON).float().mean()),
        "valid_loss": float(torch.nn.functional.cross_entropy(logits_nV, ids_NT[:, prefix:].flatten())),
    }


def loaded_and_samples(checkpoint: Path, count: int, length: int, options: argparse.Namespace):
    """(the checkpoint with its maps, spread samples of the held-out text with BOS in front, [count, length])."""
    loaded = sinkctl.load(str(checkpoint), device=options.device)
    loaded.model.set_attn_implementation("eager")
    ids_T = torch.cat([torch.from_numpy(b.ids) for b in TokenStream((options.held_out,), loaded.tokenizer)])
    starts = torch.linspace(0, len(ids_T) - length, count).long()
    ids_NT = ids_T[starts[:, None] + torch.arange(length)]
    ids_NT[:, 0] = loaded.bos_id
    return loaded, ids_NT.to(loaded.device)


def print_table(names: Sequence[str], options: argparse.Namespace) -> None:
    """Every row that was asked for, with what the folder holds of it."""
    found = {name: kept_rows(options.folder, name) for name in {*names, *(published(n).against for n in names)}}
    rows = [row for runs in found.values() for row in runs]
    for said in sorted({row["machine"] for row in rows}):
        print(f"\n{said}")
    heads = [f"{head:>11}" for head, _, _ in COLUMNS]
    print(" | ".join([f"{'':22}", "seeds", *heads, "Gu et al.: Sink_*, Sink_1, loss | the same sign?"]))
    for name in names:
        print(printed_row(name, found[name]) + f" | {judged(name, found)}")
    print("\nSink_1 %, after so many steps (the first seed):")
    for name in [name for name in names if found[name]]:
        curve = [(p["step"], p["sink_percent"]) for p in found[name][0]["probes"] if p["sink_percent"] is not None]
        print(f"{name:22} " + "  ".join(f"{step}: {percent:.1f}" for step, percent in curve))


def kept_rows(folder: Path, name: str) -> list[dict[str, Any]]:
    """What was kept of a row, by seed."""
    seeds = sorted(folder.glob(f"{name}-*.json"), key=lambda path: int(path.stem.rpartition("-")[2]))
    return [json.loads(path.read_text(encoding="utf-8")) for path in seeds]


def judged(name: str, found: dict[str, list[dict[str, Any]]]) -> str:
    theirs = published(name)
    if name == theirs.against:
        return "baseline"
    row, baseline = (seeds_of(found[of], theirs.of) for of in (name, theirs.against))
    of = "" if theirs.of == "sink_1" else f" ({theirs.of})"
    beside = "" if theirs.against == BASELINE else f", beside {theirs.against}"
    return compared(theirs.effect(), row, baseline) + of + beside


def seeds_of(rows: Sequence[dict[str, Any]], column: str) -> Seeds | None:
    values = tuple(row[column] for row in rows if row.get(column) is not None)
    return Seeds(values) if values else None


def printed_row(name: str, rows: Sequence[dict[str, Any]]) -> str:
    """Means over seeds beside the published numbers; or why there are none."""
    wrong = next((row["error"] for row in rows if "error" in row), None)
    if wrong is not None:
        return f"{name:22} | {wrong}"
    means = {column: seeds_of(rows, column) for _, column, _ in COLUMNS}
    shown = ["–" if means[c] is None else form.format(means[c].mean) for _, c, form in COLUMNS]
    theirs = published(name)
    said = [
        "–" if x is None else f"{x:.{places}f}"
        for x, places in ((theirs.sink_star, 1), (theirs.sink_1, 1), (theirs.loss, 2))
    ]
    return " | ".join([f"{name:22}", f"{len(rows):>5}", *(f"{text:>11}" for text in shown), ", ".join(said)])


if __name__ == "__main__":
    main()
