"""A trained checkpoint given a sink, a brief training, and what that did to everything else: a row a recipe.

    python benchmarks/retrofit.py --model smollm2.gguf --train-text FILE … --mixed-text FILE … --text NOVEL
        --second FILE --folder DIR [--only sink_logit control] [--seeds 1] [--steps 500] [--batch 16] [--length 2048]
        [--lr 1e-4] [--gpus 1] [--workers 1] [--table] [--beside original control]

Rows are the recipes `convert/retrofit/*`, and `original`, the checkpoint as it is. --text is held out of --train-text
and of the same kind; --second is of another kind, so that what is forgotten shows. Rows named mixed are trained on
--mixed-text as well, of the second kind, but held out of it. A finished row is kept in DIR, its checkpoint beside it,
and not run again; one that was stopped goes on, one of other settings is refused. Every row is judged by the same code:
perplexity with everything in sight, streamed with nothing kept (0+1020) and with four tokens kept (4+1020), the KL from
the original, RULER's single needle (with the extra `eval`), Sink_1, the largest activation and the largest kurtosis,
and what is added by rounding keys and values (none in full; of the original with four tokens kept, of all others with
none) and the inputs of linear layers to few bits. What is known of a row under way is in its .part, and in the tables.
Of several seeds it is the means that are shown. --beside adds what few bits cost each row as a share of what they cost
one of another name, with standard errors that are paired block by block.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

from row_queue import (
    Job,
    add_flags,
    check_known,
    check_paths,
    child,
    count,
    count_or_0,
    machine,
    read_row,
    run_queue,
    visible,
)


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser)
    parser.add_argument("--model", help="a folder, a Hub id or a GGUF file")
    parser.add_argument("--mixed-text", nargs="*", default=[], help="that rows named mixed are trained on as well")
    parser.add_argument("--calibration", help="a text that the start is computed from; none: --text")
    parser.add_argument("--text")
    parser.add_argument("--second")
    parser.add_argument("--folder", type=Path, required=True, help="where finished rows and their checkpoints are kept")
    parser.add_argument("--lr", type=float)
    parser.add_argument("--micro-batch", type=count, help="sequences a forward pass takes, where processes share a GPU")
    parser.add_argument("--compile", action="store_true", default=None, help="however few the steps")
    parser.add_argument("--window", type=count, default=1020, help="tokens in the cache besides kept ones")
    parser.add_argument("--tokens", type=count, default=40000, help="streamed, of each text; of them as many as")
    parser.add_argument("--few-tokens", type=count, default=20000, help="in 3 and 2 bits, and by token")
    parser.add_argument("--samples", type=count, default=8, help="of each text with everything in sight,")
    parser.add_argument("--sample-length", type=count, default=2048, help="tokens each")
    parser.add_argument(
        "--needles", type=count_or_0, default=20, help="texts of RULER's single needle of a length; or 0"
    )
    parser.add_argument("--beside", nargs="*", default=[], help="rows that all others are held against")
    options = parser.parse_args()
    missing = [name for name in ("model", "text", "second") if getattr(options, name) is None]
    if missing and not options.table:
        parser.error(f"--{missing[0]}: name one")
    check_paths(parser, options, [*options.train_text, *options.mixed_text, options.text, options.second])
    if options.needles and not options.table and find_spec("lm_eval") is None:
        parser.error("--needles: lm-evaluation-harness is not installed; install sinkctl[eval], or give --needles 0")
    options.calibration = options.calibration or options.text
    return options


if __name__ == "__main__":
    flags()  # first: importing torch takes seconds

from pydantic import ValidationError
from retrofit_judged import judged, reloaded
from retrofit_table import TEXTS, kept_rows, print_tables
from rich.console import Console

import sinkctl
from sinkctl.cli.loading import quiet_transformers
from sinkctl.cli.progress import parts_shown
from sinkctl.cli.stopping import Stopping
from sinkctl.errors import SinkctlError, UsageError
from sinkctl.recipe.load import load
from sinkctl.recipe.named import built_in, find
from sinkctl.recipe.schema import CalibrationSettings, ConvertRecipe, EvaluationSettings, TextFiles
from sinkctl.result.store import RESULT, resumable

ROWS, ORIGINAL = "convert/retrofit/", "original"
STANDARD = 1020  # tokens of a window
JUDGED = (
    "model",
    *TEXTS,
    "window",
    "tokens",
    "few_tokens",
    "samples",
    "sample_length",
    "needles",
)  # options that the numbers are of
OTHERS = "is of other settings; name another --folder, or remove it"


def main() -> None:
    quiet_transformers()
    options = flags()
    rows = [ORIGINAL, *sorted(name.removeprefix(ROWS) for name in built_in() if name.startswith(ROWS))]
    names = options.only or rows
    for flag, said in (("--only", names), ("--beside", options.beside)):
        check_known(flag, said, rows, f"there are {', '.join(rows)}")
    if not options.table and not options.mixed_text and (mixed := next(filter(is_mixed, names), None)):
        raise SystemExit(f"--mixed-text: name a text for {mixed}, or leave it out by --only")
    before = kept_rows([*names, *options.beside], options.folder)  # a file that is no row is said before hours of work
    coming = [] if options.table else names
    if missing := [name for name in options.beside if not before[name] and name not in coming]:
        raise SystemExit(f"--beside {missing[0]}: no such row in {options.folder}; name it in --only too")
    if not options.table:
        seeds = range(options.first_seed, options.first_seed + options.seeds)
        wanted = [(name, seed) for name in names for seed in seeds if name != ORIGINAL or seed == 0]
        wanted = [(name, seed) for name, seed in wanted if not is_kept(name, seed, options)]
        if options.gpus * options.workers > 1 or options.seconds is not None:
            side_by_side(wanted, options)
        else:
            try:
                for name, seed in wanted:
                    row(name, seed, options)
            except SinkctlError as error:
                raise SystemExit(str(error)) from error
    print_tables(kept_rows(names, options.folder), options)
    if not options.table and (failed := sum(not place(*each, options).exists() for each in wanted)):
        raise SystemExit(f"{failed} of {len(wanted)} rows failed or were not begun; above is why")


def side_by_side(wanted: Sequence[tuple[str, int]], options: argparse.Namespace) -> None:
    """In processes of their own."""

    def finished(job: Job, error: str | None) -> None:
        print(f"{job.name}-{job.seed}: {error or 'done'}", flush=True)

    jobs = [Job(name, seed, 0.5 if name == ORIGINAL else 1.0) for name, seed in wanted]
    gpus = [] if options.device == "cpu" else visible(options.gpus)
    run_queue(jobs, gpus, options.workers, options.folder, child(__file__, options), finished, options.seconds)


def row(name: str, seed: int, options: argparse.Namespace) -> None:
    """Train it and judge it, and keep the numbers."""
    folder, found = options.folder / f"{name}-{seed}", {}
    if name != ORIGINAL:
        found = trained(recipe_of(name, seed, options), folder)
    began = time.monotonic()
    original = sinkctl.load(options.model, device=options.device, dtype="float32")
    loaded = original if name == ORIGINAL else sinkctl.load(str(folder), device=options.device, dtype="float32")
    found |= {"row": name, "seed": seed, "machine": machine(options.device), "settings": asked(name, seed, options)}
    texts = {text: getattr(options, text) for text in TEXTS}
    unfinished = place(name, seed, options).with_suffix(".part")
    before = read_row(unfinished) if unfinished.exists() else {}
    if all(before.get(key) == found.get(key) for key in ("settings", "curve")):  # judged in part, and the same training
        machines = {*before["machine"].split("; "), found["machine"]}
        found = before | found | {"machine": "; ".join(sorted(machines))}
    written = [] if name == ORIGINAL or "stock_gap" in found else [folder]
    stock = (reloaded(each, loaded, options.text, options) for each in written)
    spent = found.get("judged_s", 0.0)
    for known in chain([{}], judged(loaded, original, texts, options, set(found)), stock):
        found |= known | {"judged_s": spent + time.monotonic() - began}
        written_beside = unfinished.with_suffix(".new")
        written_beside.write_text(json.dumps(found, indent=1), encoding="utf-8")
        os.replace(written_beside, unfinished)
    os.replace(unfinished, place(name, seed, options))


def recipe_of(name: str, seed: int, options: argparse.Namespace) -> ConvertRecipe:
    """The built-in recipe with the model, the texts and the size asked for; controls are rows, and what it does to
    everything else is found here."""
    recipe = load(find(ROWS + name))
    steps, training = options.steps or recipe.steps, recipe.training
    longer = max(1, training.window // STANDARD)  # by as many times fewer sequences
    files = [*options.train_text, *(options.mixed_text if is_mixed(name) else [])]
    changes = {
        "text": TextFiles(files=tuple(files)), "seed": seed, "control": False,
        "window": min(training.window, longer * options.window), "alone": training.alone * steps // recipe.steps,
    }  # fmt: skip
    changes |= {key: getattr(options, key) for key in ("lr", "compile") if getattr(options, key)}
    changes |= {key: max(1, each // longer) for key in ("batch", "micro_batch") if (each := getattr(options, key))}
    changes |= {"length": longer * options.length} if options.length else {}
    return recipe.model_copy(
        update={
            "steps": steps,
            "model": recipe.model.model_copy(update={"name": options.model, "device": options.device}),
            "text": TextFiles(files=(options.calibration,)),
            "calibration": CalibrationSettings(window=min(recipe.calibration.window, longer * options.window)),
            "training": recipe.training.model_copy(update=changes),
            "evaluation": EvaluationSettings(run=False),
        }
    )


def trained(recipe: ConvertRecipe, folder: Path) -> dict[str, Any]:
    """What is said of the training of the checkpoint in `folder`, which is kept from before where it is whole."""
    said = folder / RESULT
    if said.exists():
        if not settled(settings(recipe), complete(json.loads(said.read_text(encoding="utf-8"))["recipe"])):
            raise UsageError(f"{folder}: {OTHERS}")
    else:
        resumed = resumable(folder)
        if folder.exists() and not resumed:
            shutil.rmtree(folder)
        stopping = Stopping(kept="the same command goes on from the last state")
        with stopping, parts_shown(Console(stderr=True)) as shown:
            sinkctl.convert(recipe, output=folder, resume=resumed, progress=shown, stop=stopping.asked)
    training = json.loads(said.read_text(encoding="utf-8"))["convert"]["training"]
    (curve,) = training["curves"]
    names = ("steps", "batch", "length", "window", "lr", "tokens_per_second", "attention", "precision")
    return {name: training[name] for name in names} | {
        "seconds": curve["seconds"],
        "curve": {key: curve[key] for key in ("loss", "objective", "gradient")},
        "loss_settings": recipe.training.loss.model_dump(),
    }


def settings(recipe: ConvertRecipe) -> dict[str, Any]:
    """All that its numbers are of."""
    places = {"model": {"device"}, "training": {"micro_batch", "compile"}}
    return recipe.model_dump(mode="json", exclude=places | {"evaluation": True})


def complete(recipe: dict[str, Any]) -> dict[str, Any]:
    """The settings of a recipe that an earlier version wrote: what it did not know is as it comes; none of one that is
    no recipe any more."""
    try:
        return settings(ConvertRecipe.model_validate(recipe))
    except ValidationError:
        return {}


def settled(wanted: Any, found: Any) -> bool:
    """Whether a run that says `found` of itself is what is wanted, whose `auto` may have become anything."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        return all(key in found and settled(value, found[key]) for key, value in wanted.items())
    return wanted in ("auto", found)


def asked(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """How a row is trained, and how judged."""
    recipe = None if name == ORIGINAL else settings(recipe_of(name, seed, options))
    return {"recipe": recipe, "judged": {key: getattr(options, key) for key in JUDGED}}


def is_kept(name: str, seed: int, options: argparse.Namespace) -> bool:
    """Whether the folder has it; SystemExit where that is of other settings."""
    kept = place(name, seed, options)
    if not kept.exists():
        return False
    found = read_row(kept).get("settings", {})
    if found.get("recipe"):
        found["recipe"] = complete(found["recipe"] | {"evaluation": {"run": False}})
    if found != asked(name, seed, options):
        raise SystemExit(f"{kept}: {OTHERS}")
    return True


def is_mixed(name: str) -> bool:
    """Whether it is trained on both kinds of text."""
    return name.endswith("_mixed")


def place(name: str, seed: int, options: argparse.Namespace) -> Path:
    return options.folder / f"{name}-{seed}.json"


if __name__ == "__main__":
    sys.exit(main())
