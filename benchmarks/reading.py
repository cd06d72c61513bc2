"""Seconds that a text takes to become tokens, beside another checkout: the clock's and the processor's.

    python benchmarks/reading.py TEXT... [--model FOLDER|FILE.gguf] [--training] [--against WORKTREE] [--rounds 5]

Each build has one process, which has read the tokenizer before the clock runs. Builds take turns, and the order turns
every round. Ids, byte offsets, lines and positions of all rounds are held against each other. With --training the
texts are read as `convert --train-text` reads them, which needs ids alone.
"""

import argparse
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent.parent


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("texts", nargs="+", help="files, in any form that can be read")
    parser.add_argument("--model", default=str(HERE / "sinkctl/model/demo"), help="the built-in model's tokenizer")
    parser.add_argument("--training", action="store_true", help="as documents to train on")
    parser.add_argument("--against", type=Path, help="a checkout of another version, with sinkctl/ in it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--worker", action="store_true", help="what this script starts: a round for each line it is sent"
    )
    return parser.parse_args()


def work(texts: list[str], model: str, training: bool) -> None:
    """A line of JSON on standard output for each line on standard input."""
    from transformers import AutoTokenizer

    path = Path(model)
    gguf = {"gguf_file": path.name} if path.suffix == ".gguf" else {}
    tokenizer = AutoTokenizer.from_pretrained(path.parent if gguf else path, **gguf)
    read = _corpus if training else _blocks
    for _ in read(texts[:1], tokenizer):  # what is examined once, is
        break
    for _ in sys.stdin:
        digest, first, tokens = hashlib.sha256(), None, 0
        began, busy = time.perf_counter(), _busy()
        for ids, more in read(texts, tokenizer):
            first = first or time.perf_counter() - began
            tokens += len(ids)
            digest.update(ids.tobytes() + more)
        seconds = {"clock": time.perf_counter() - began, "cpu": _busy() - busy, "first": first or 0.0}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({**seconds, "tokens": tokens, "peak": peak, "digest": digest.hexdigest()}), flush=True)


def _blocks(texts: list[str], tokenizer: Any) -> Iterator[tuple[np.ndarray, bytes]]:
    """The ids of each block, and all else that is known of it."""
    from sinkctl.text import TokenStream

    stream = TokenStream(texts, tokenizer)
    for block in stream:
        told = repr((block.file, block.start, stream.bytes_read, stream.share_read))
        yield block.ids, block.byte_offsets.tobytes() + block.lines.tobytes() + told.encode()


def _corpus(texts: list[str], tokenizer: Any) -> Iterator[tuple[np.ndarray, bytes]]:
    """The ids of all documents, and where they begin."""
    from sinkctl.recipe.schema import TextFiles
    from sinkctl.tasks.convert.training.corpus import of_files

    model = SimpleNamespace(name=tokenizer.name_or_path, rows=len(tokenizer), tokenizer=tokenizer)
    corpus = of_files(TextFiles(files=tuple(texts)), model, None)
    yield corpus.tokens, corpus.starts.tobytes()


def _busy() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    asked = flags()
    if asked.worker:
        return work(asked.texts, asked.model, asked.training)
    builds = {"here": HERE} | ({"against": asked.against.resolve()} if asked.against else {})
    words = [sys.executable, "-P", __file__, *asked.texts, "--model", asked.model, "--worker"]
    words += ["--training"] if asked.training else []
    size = sum(Path(text).stat().st_size for text in asked.texts) / 1e6
    workers = {
        build: subprocess.Popen(
            words, env=os.environ | {"PYTHONPATH": str(tree)}, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for build, tree in builds.items()
    }
    print(f"{'build':8} {'clock':>7} {'cpu':>7} {'first block':>12} {'MB/s':>6} {'peak MB':>8}", flush=True)
    found: dict[str, list[dict]] = {build: [] for build in builds}
    for number in range(asked.rounds):
        for build in list(builds)[:: -1 if number % 2 else 1]:
            worker = workers[build]
            worker.stdin.write("\n")
            worker.stdin.flush()
            line = worker.stdout.readline()
            if not line:
                sys.exit(f"{build}: ended with {worker.wait()}")
            row = json.loads(line)
            found[build].append(row)
            print(
                f"{build:8} {row['clock']:7.2f} {row['cpu']:7.2f} {row['first']:12.3f} "
                f"{size / row['clock']:6.2f} {row['peak']:8.0f}",
                flush=True,
            )
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    rows = [row for each in found.values() for row in each]
    if len({row["digest"] for row in rows}) > 1:
        sys.exit("rounds gave different ids, byte offsets, lines or positions")
    print(f"{rows[0]['tokens']:,} tokens of {size:.1f} MB, the same in all {len(rows)} rounds")
    median = {build: {k: statistics.median(row[k] for row in each) for k in ("clock", "cpu", "first")}
              for build, each in found.items()}  # fmt: skip
    for build, seconds in median.items():
        print(f"median {build}: " + ", ".join(f"{name} {value:.3f} s" for name, value in seconds.items()))
    if asked.against:
        print(
            "here / against: "
            + ", ".join(f"{k} {median['here'][k] / median['against'][k]:.2f}" for k in median["here"])
        )


if __name__ == "__main__":
    main()
