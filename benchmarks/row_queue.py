"""Rows of `emergence.py` and `retrofit.py` side by side, in the order given: processes of their own on each GPU.

A small model leaves most of a GPU idle between its kernels. A process that is stopped keeps its state, as a row that
runs alone does; what a row's process says is in a .log beside it until the row is finished. --seconds is for a machine
that is lent for so long: it begins no row that it would have to stop.
"""

import argparse
import difflib
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from statistics import median
from typing import Any

# Flags that say which rows run, where and how long.
OWN = ("only", "seeds", "first_seed", "gpus", "workers", "seconds", "list", "table", "markdown", "beside")
RECENT = 5  # jobs that ended last, whose pace the next is taken to have


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Those that both scripts have."""
    parser.add_argument("--train-text", nargs="+", default=[])
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--seeds", type=count, default=1)
    parser.add_argument("--first-seed", type=count_or_0, default=0)
    parser.add_argument("--steps", type=count)
    parser.add_argument("--batch", type=count)
    parser.add_argument("--length", type=count)
    parser.add_argument("--device", type=device, default="auto")
    parser.add_argument("--gpus", type=count, default=1)
    parser.add_argument("--workers", type=count, default=1, help="rows at a time on each GPU")
    parser.add_argument("--seconds", type=count, help="begin no row side by side that would not end within so many")
    parser.add_argument("--table", action="store_true")


def count(said: str) -> int:
    """1 or more, as argparse takes it."""
    return _whole(said, 1)


def count_or_0(said: str) -> int:
    return _whole(said, 0)


def _whole(said: str, least: int) -> int:
    if not said.isdecimal() or not least <= int(said) < 1 << 62:
        raise argparse.ArgumentTypeError(f"{said}: give a whole number from {least} on")
    return int(said)


def device(said: str) -> str:
    """As `sinkctl --device` takes it."""
    from sinkctl.model.settings import ModelSettings  # no torch

    try:
        return ModelSettings(device=said).device
    except ValueError as problem:
        raise argparse.ArgumentTypeError(f"{said}: give auto, cpu, cuda, cuda:N or mps") from problem


def check_paths(parser: argparse.ArgumentParser, options: argparse.Namespace, texts: Sequence[str]) -> None:
    """Ends with a usage error where rows of a table or a text are not there, or the folder of rows cannot be made."""
    if options.table:
        if not options.folder.is_dir():
            parser.error(f"--folder {options.folder}: no such folder; name the one where finished rows are kept")
        return
    for text in texts:
        if not Path(text).is_file():
            parser.error(f"{text}: no such file; name a text")
    try:
        options.folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        parser.error(f"--folder {options.folder}: cannot be made ({problem.strerror}); name another")


def read_row(path: Path, *holds: str) -> dict[str, Any]:
    """A kept row, which has `holds`; SystemExit for a file that is none, half a one, or one of another script."""
    holds = (*holds, "row", "seed", "machine")
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise SystemExit(f"{path}: is no row ({problem}); remove it") from problem
    lacks = [name for name in holds if not (isinstance(row, dict) and name in row)]
    if lacks:
        raise SystemExit(
            f"{path}: is no row of this table, it has no {lacks[0]!r}; name another --folder, or remove it"
        )
    return row


def check_known(flag: str, names: Sequence[str], rows: Sequence[str], all_of_them: str) -> None:
    """SystemExit for the first name that is no row: what may have been meant, or else where `all_of_them` are."""
    for name in names:
        if name in rows:
            continue
        near = difflib.get_close_matches(name, rows, n=1)
        hint = f"did you mean {near[0]}?" if near else all_of_them
        raise SystemExit(f"{flag} {name}: no such row; {'names go apart by spaces' if ',' in name else hint}")


def child(script: str, options: argparse.Namespace) -> list[str]:
    """The script with these options, for one row."""
    said = [script]
    for name, value in vars(options).items():
        if name in OWN or value is None or value is False:
            continue
        said.append(f"--{name.replace('_', '-')}")
        if value is not True:
            said += map(str, value if isinstance(value, list) else [value])
    return said


@dataclass(frozen=True)
class Job:
    """A row and a seed, and about how long it takes, in any unit."""

    name: str
    seed: int
    work: float
    goes_on: bool = False  # from where it was stopped: how long it takes tells nothing of the others


def visible(count: int) -> list[str]:
    """The first so many GPUs that this process may use, by number."""
    seen = [number for number in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if number]
    return (seen or [str(number) for number in range(count)])[:count]


def machine(device: str) -> str:
    import torch  # the flags are read without

    cuda = torch.cuda.is_available() and device != "cpu"
    name = torch.cuda.get_device_name() if cuda else f"{os.cpu_count()} cores CPU ({platform.machine()})"
    return f"{name}, torch {torch.__version__}"


def run_queue(
    jobs: Sequence[Job], gpus: Sequence[str], workers: int, folder: Path, said: Sequence[str],
    finished: Callable[[Job, str | None], None], limit: float | None = None,
) -> None:  # fmt: skip
    """Every job as `said` (the script and its arguments) with its own --only and --first-seed; `finished` gets the
    error that ended one, or None. `gpus` are numbers of CUDA devices; none: no GPU is asked for. A job is not begun
    where, at the pace of the faster ones of those that ended last, it would not end within `limit` seconds of the call;
    while none has ended, jobs are begun in any case."""
    places: SimpleQueue[str | None] = SimpleQueue()
    for _ in range(workers):
        for gpu in gpus or [None]:
            places.put(gpu)
    began, to_do = time.monotonic(), sum(job.work for job in jobs)
    paces: list[float] = []  # seconds a unit of work, of jobs that ended

    def one(job: Job) -> tuple[Job, str | None]:
        gpu = places.get()
        try:
            start = time.monotonic()
            left = math.inf if limit is None else max(0.0, limit - (start - began))
            takes = hopeful(paces[-RECENT:]) * job.work if paces else 0.0
            if takes > left or not left:
                needs = f", and it takes about {takes:,.0f} s" if takes else ""
                return job, f"not begun: {left:,.0f} s are left{needs}"
            error = _row(job, gpu, folder, said)
            if error is None and not job.goes_on:
                paces.append((time.monotonic() - start) / job.work)
            return job, error
        finally:
            places.put(gpu)

    with ThreadPoolExecutor(workers * max(1, len(gpus))) as pool:
        for number, (job, error) in enumerate(_as_done(pool, one, jobs), 1):
            finished(job, error)
            to_do -= job.work
            left = median(paces[-RECENT:]) * to_do / (workers * max(1, len(gpus))) if paces else None
            words = f"{number} of {len(jobs)} rows in {time.monotonic() - began:,.0f} s"
            print(words + ("" if left is None else f", about {left:,.0f} s left"), file=sys.stderr, flush=True)


def hopeful(paces: Sequence[float]) -> float:
    """The lower quartile: the last jobs share a GPU with fewer others, and one that is stopped after all has cost only
    what nobody else would have used."""
    return sorted(paces)[len(paces) // 4]


def _as_done(pool: ThreadPoolExecutor, one: Callable, jobs: Sequence[Job]) -> Iterator[tuple[Job, str | None]]:
    results: SimpleQueue[Future] = SimpleQueue()
    for job in jobs:
        pool.submit(one, job).add_done_callback(results.put)
    try:
        for _ in jobs:
            yield results.get().result()
    except BaseException:  # Ctrl-C reaches the rows under way too; the others are not begun
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def _row(job: Job, gpu: str | None, folder: Path, said: Sequence[str]) -> str | None:
    """Run it; what is wrong, in its last words, or None."""
    environment = os.environ | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})
    log = folder / f"{job.name}-{job.seed}.log"
    with log.open("w", encoding="utf-8") as file:
        own = ["--only", job.name, "--first-seed", str(job.seed)]
        code = subprocess.run(
            [sys.executable, *said, *own], env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file
        ).returncode
    words = log.read_text(encoding="utf-8", errors="replace").split("\n")
    if code == 0:
        log.unlink()
        return None
    return next((line.strip() for line in reversed(words) if line.strip()), f"ended with exit code {code}")
