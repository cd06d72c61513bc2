"""When sinks emerge as a small Llama learns from random weights: each recipe convert/emergence/* a row.

    python benchmarks/emergence.py --train-text FILE --held-out FILE --folder DIR [--only softmax 'decay_*' …]
        [--seeds 1] [--steps 2000] [--batch 128] [--length 512] [--device cuda] [--compile]
        [--gpus 1] [--workers 1] [--seconds S] [--list] [--table] [--markdown]

--train-text is text or an .npy of token ids, --held-out a text that is not in it; rows that differ in how documents are
packed need several of them (a .jsonl file, or several files). --only takes names and patterns, behind which @1 means
seed 1 alone; without it all rows run.
A row that is finished is kept in DIR and not run again; one that was stopped goes on. --steps, --batch and --length are
those of the softmax row; others keep their ratio to it (half the rate, twice the steps). --seeds 3: every row with
training.seed 0, 1, 2. --gpus and --workers: so many GPUs, and so many rows at a time on each, in the order of --only,
else the longest first; a row's own log is in DIR until it is finished. --seconds: of those, none is begun that would
not end within S seconds, going by the last that did. --list prints the rows, --table the table of
what DIR holds, without running anything; --markdown prints it in groups, as docs/figures/emergence.md has it.

Sink_*: heads that give the mechanism more than 0.3 of attention; Sink_1: the first token that is no sink token; of
weights that do not sum to 1, as there, once their sizes are divided by their sum. The last column says whether the
effect on Sink_1 (where marked, on Sink_*) has the same sign there: agree, not, within chance (what seeds alone may
differ by: Student's t at 95 %, of the variance within all rows with a sink that the folder has several seeds of), not
run, not measured (by an earlier script); – where none is published. Numbers beside ours: Gu et al. 2024, by
emergence_rows.py; the signs of softpick and of gates are of Zuhri et al. 2025 and Qiu et al. 2025.
With a prefix that every query sees, Sink_* is of any of its tokens, and the loss that of samples of 64 behind it
(its curve over steps is read without). With windows, Sink_1 is over the queries that see the first token, and Sink_*
of the oldest token in sight, over those that do not; windows of 16 and 32 are beside softmax over as few queries.
"""

import argparse
import json
import math
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from row_queue import Job, add_flags, check_known, check_paths, child, count, machine, read_row, run_queue, visible


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser)
    parser.add_argument("--held-out")
    parser.add_argument("--folder", type=Path, help="where finished rows are kept")
    parser.add_argument("--tokens", type=count, default=32768, help="held-out tokens that samples are taken from")
    parser.add_argument("--compile", action="store_true", help="also below as many steps as repay it by themselves")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--markdown", action="store_true", help="print the table as markdown, in groups")
    options = parser.parse_args()
    if not options.list and options.folder is None:
        parser.error("--folder: name one, where finished rows are kept")
    if not (options.list or options.table) and not (options.train_text and options.held_out):
        parser.error("--train-text and --held-out: give both")
    if not options.list:
        check_paths(parser, options, [*options.train_text, options.held_out])
    if options.table and not any(options.folder.glob("*-*.json")):
        parser.error(f"--folder {options.folder}: no finished row in it; name the one where they are kept")
    return options


if __name__ == "__main__":
    flags()  # first: importing torch takes seconds

from emergence_judged import in_windows, sink_1_behind_token, sink_1_of_shares, with_prefix
from emergence_rows import BASELINE, FEWER, SAME, of_fewer
from emergence_table import HOLDS, chances_of, print_markdown, print_table, printed_row
from pydantic import ValidationError
from rich.console import Console

import sinkctl
from sinkctl.cli.loading import quiet_transformers
from sinkctl.cli.progress import parts_shown
from sinkctl.errors import ResumeError, SinkctlError
from sinkctl.recipe.load import load
from sinkctl.recipe.named import built_in, find
from sinkctl.recipe.schema import ConvertRecipe, EvaluationSettings, TextFiles
from sinkctl.result.schema import Result
from sinkctl.result.store import resumable
from sinkctl.sinks.code.sink_attention import WEIGHED
from sinkctl.tasks.convert.outcome import CONVERTED, fed

ROWS = "convert/emergence/"
PROBES = 5  # at most, of a run
LAUNCHES = 16384  # tokens: a step of fewer takes as long, for its launches do (measured: one H200)
MAPS_COST = 1.3  # of a step with attention as T×T maps (measured: 15 rows of 32 × 512 tokens at a time on one H200)


def main() -> None:
    quiet_transformers()
    options = flags()
    names = chosen(options.only)
    if options.list:
        print("\n".join(names))
        return
    chances_of(options.folder)  # a file that is no row, or one of other settings, is said before hours of work
    if not options.table:
        wanted = wanted_of(options)
        for name, seed in wanted:
            kept_row(name, seed, options)
        if options.gpus * options.workers > 1 or options.seconds is not None:
            side_by_side(wanted, options)
        else:
            wrong = [told(name, run(name, seed, options)) for name, seed in wanted]
            if len(wanted) == 1 and wrong[0]:
                raise SystemExit(wrong[0])
    (print_markdown if options.markdown else print_table)(names, options.folder)
    if not options.table and (failed := sum(not place(options.folder, *each).exists() for each in wanted)):
        raise SystemExit(f"{failed} of {len(wanted)} rows failed or were not begun; above is why")


def told(name: str, row: dict[str, Any]) -> str | None:
    """Print the row; returns what is wrong with it."""
    print(printed_row(name, [row]), flush=True)
    return row.get("error")


def side_by_side(wanted: Sequence[tuple[str, int]], options: argparse.Namespace) -> None:
    """What is not kept yet, in processes of its own."""
    jobs = []
    for name, seed in wanted:
        recipe = recipe_of(name, seed, options)
        if kept_row(name, seed, options) is None:
            cost = MAPS_COST if recipe.sink.kind in WEIGHED else 1
            tokens = recipe.training.batch * recipe.training.length
            begun = unfinished(options.folder, name, seed).exists()
            jobs.append(Job(name, seed, cost * recipe.steps * max(LAUNCHES, tokens), begun))

    def finished(job: Job, error: str | None) -> None:
        told(job.name, {"error": error} if error else kept_row(job.name, job.seed, options))

    gpus = [] if options.device == "cpu" else visible(options.gpus)
    if not options.only:
        jobs.sort(key=lambda job: -job.work)
    said = child(__file__, options)
    run_queue(jobs, gpus, options.workers, options.folder, said, finished, options.seconds)


def wanted_of(options: argparse.Namespace) -> list[tuple[str, int]]:
    """Rows and seeds in the order they run: seed by seed, and what is asked for with a seed of its own once."""
    wanted = []
    for turn in range(options.seeds):
        for pattern in sorted(options.only or ["*"], key=lambda pattern: pattern.partition("@")[0] != BASELINE):
            _, at, own = pattern.partition("@")
            if at and not (own.isdecimal() and int(own) < 1 << 62):
                raise SystemExit(f"--only {pattern}: no seed behind the @; give a number, as in {BASELINE}@1")
            if not (at and turn):
                seed = int(own) if at else options.first_seed + turn
                wanted += [(SAME.get(name, name), seed) for name in chosen([pattern])]
    return list(dict.fromkeys(wanted))


def chosen(only: Sequence[str]) -> list[str]:
    """Rows that match, whatever seed is behind them, the baseline first, then in the order asked for."""
    only = [pattern.partition("@")[0] for pattern in only]
    rows = sorted(name.removeprefix(ROWS) for name in built_in() if name.startswith(ROWS))
    unknown = [pattern for pattern in only if not any(fnmatch(row, pattern) for row in rows)]
    check_known("--only", unknown, rows, "--list prints them")
    wanted = [row for pattern in only or "*" for row in rows if fnmatch(row, pattern)]
    return sorted(dict.fromkeys(wanted), key=lambda row: row != BASELINE)


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
        "compile": options.compile or settings.compile,
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
    kept, folder = place(options.folder, name, seed), unfinished(options.folder, name, seed)
    if (row := kept_row(name, seed, options)) is not None:
        return row
    resumed = resumable(folder)
    if folder.exists() and not resumed:
        shutil.rmtree(folder)
    try:
        with parts_shown(Console(stderr=True)) as shown:
            found = numbers(sinkctl.convert(recipe, output=folder, resume=resumed, progress=shown).result)
        kind, normalised = recipe.sink.kind, getattr(recipe.sink, "normalise", False)
        if kind in ("kernel", "normaliser") or (kind in ("sigmoid", "elu") and not normalised):
            found["sink_1"] = sink_1_of_shares(folder, options)
        if kind == "sink_token":
            found["sink_1"] = sink_1_behind_token(folder, options)
        if recipe.training.prefix is not None:
            found |= with_prefix(folder, recipe.training.prefix, options)
        if (window := recipe.scratch.get("sliding_window")) is not None:
            found |= in_windows(folder, window, options)
        if name == BASELINE:
            found |= {of_fewer(q): in_windows(folder, q, options)["sink_1"] for q in FEWER.values()}
    except ResumeError as error:
        return {"error": f"{error}: remove that folder, or name another --folder"}
    except SinkctlError as error:
        return {"error": str(error)}
    row = {"row": name, "seed": seed, "machine": machine(options.device), **found, "recipe": said_of(recipe)}
    part = kept.with_suffix(".part")
    part.write_text(json.dumps(row, indent=1), encoding="utf-8")
    os.replace(part, kept)
    shutil.rmtree(folder)
    return row


def said_of(recipe: ConvertRecipe) -> dict[str, Any]:
    return recipe.model_dump(mode="json", exclude={"model": {"device"}})


def kept_row(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any] | None:
    """What the folder has of it; SystemExit where that is of other settings."""
    kept = place(options.folder, name, seed)
    if not kept.exists():
        return None
    row = read_row(kept, HOLDS)
    with suppress(ValidationError):  # fields that are new since have their defaults; some may be gone
        if said_of(ConvertRecipe.model_validate(row["recipe"])) == said_of(recipe_of(name, seed, options)):
            return row
    raise SystemExit(f"{kept}: is of other settings; name another --folder, or remove it")


def place(folder: Path, name: str, seed: int) -> Path:
    return folder / f"{name}-{seed}.json"


def unfinished(folder: Path, name: str, seed: int) -> Path:
    return folder / f"{name}-{seed}.running"


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


if __name__ == "__main__":
    main()
