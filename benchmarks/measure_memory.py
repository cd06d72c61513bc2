"""Peak memory of `sinkctl measure` against the length of a sample, on a CPU, built-in model, one process a length.

    python benchmarks/measure_memory.py [--tokens 1024 2048 4096 8192 16384]

Every attention and activation metric of one sample; what the process held before the pass is taken off (Linux). A T×T
map of one layer in float32 would take the last column. Prints a table and the fit of bytes = a + b·T.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

MAPS = 3 * 4  # heads × bytes
# What is freed goes back to the system at once, so that resident memory is memory in use.
RETURNED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def one(tokens: int) -> None:
    import torch

    from sinkctl.metrics.observe import observe
    from sinkctl.metrics.samples import laid_out
    from sinkctl.metrics.views import Scope
    from sinkctl.model.load import DEMO, load
    from sinkctl.model.settings import ModelSettings
    from sinkctl.tasks.measure.tally import Tally

    loaded = load(ModelSettings(device="cpu"))
    text = (DEMO / "text.txt").read_text(encoding="utf-8")
    ids = torch.tensor([loaded.bos_id, *loaded.tokenizer(text, add_special_tokens=False).input_ids[: tokens - 1]])
    for length in (64, tokens):  # the first pass brings in what any pass needs
        with Peak() as peak:
            began, tally = time.perf_counter(), Tally(Scope(), (0.3,))
            observe(loaded.model, laid_out([ids[:length]], loaded.device), tally)
            tally.end(1)
    print(peak.grown, time.perf_counter() - began)


class Peak:
    """The most memory of the process inside `with`, over what it held before: Linux's own high-water mark, set back."""

    def __enter__(self) -> "Peak":
        Path("/proc/self/clear_refs").write_text("5")
        self._before = _status("VmRSS")
        return self

    def __exit__(self, *_) -> None:
        self.grown = _status("VmHWM") - self._before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--tokens", type=int, nargs="*", default=[1024, 2048, 4096, 8192, 16384])
    arguments.add_argument("--one", type=int, default=0, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.one:
        return one(options.one)
    rows = []
    for tokens in options.tokens:
        command = [sys.executable, __file__, "--one", str(tokens)]
        told = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | RETURNED)
        grown, took = map(float, told.stdout.split()[-2:])
        rows.append((tokens, grown))
        maps = MAPS * tokens**2 / 2**20
        print(
            f"{tokens:6d} tokens  +{grown / 2**20:7.1f} MiB  {took:6.1f} s   one layer's maps {maps:8.0f} MiB",
            flush=True,
        )
    tokens, grown = np.array(rows, float).T
    slope, start = np.polyfit(tokens, grown, 1)
    off = np.abs(grown - (start + slope * tokens)).max() / grown.max()
    print(f"bytes = {start / 2**20:.1f} MiB + {slope / 1024:.1f} KiB a token; largest deviation {off:.1%} of the peak")


if __name__ == "__main__":
    main()
