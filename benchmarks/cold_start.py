"""Seconds that a command takes from nothing, in fresh processes with empty and with filled caches of compiled kernels.

    python benchmarks/cold_start.py "stream --model M --limit 20000" "convert M --to sink_logit" [--rounds 3]
        [--against WORKTREE]

Each argument is a command of `sinkctl` without `-o`. It runs with empty caches (Inductor's, Triton's, CUDA's and
sinkctl's own) and then again with what those hold; with --against, builds take turns, and the order turns every round.
The clock's seconds and the processor's stand beside the total that the run itself kept, and its phases; older builds
kept no phases, and a total of parts only. The first line also reads what the system has not read yet. `sinkctl bench
startup` is the same for one build, as a benchmark.
"""

import argparse
import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH", "SINKCTL_CACHE")
HERE = Path(__file__).resolve().parent.parent


def seconds_of(command: str, tree: Path, caches: Path) -> tuple[float, float, dict]:
    """(the clock's seconds, the processor's, the result) of one run by the sinkctl in `tree`."""
    own = {name: str(caches / name.lower()) for name in CACHES} | {"PYTHONPATH": str(tree)}
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "out"
        words = [sys.executable, "-P", "-m", "sinkctl", *shlex.split(command), "-q", "-o", str(output)]
        began, busy = time.monotonic(), _busy()
        done = subprocess.run(words, env=os.environ | own, capture_output=True, text=True, check=False)
        took = time.monotonic() - began
        if done.returncode:
            sys.exit(f"{command} ({tree}): exit {done.returncode}\n{done.stderr.strip()[-2000:]}")
        return took, _busy() - busy, json.loads((output / "result.json").read_text(encoding="utf-8"))


def _busy() -> float:
    """Seconds of the processor that processes took which have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commands", nargs="+", help="without `sinkctl` and -o")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, help="a checkout of another version, with sinkctl/ in it")
    asked = parser.parse_args()
    builds = {"here": HERE} | ({"against": asked.against.resolve()} if asked.against else {})
    for command in asked.commands:
        print(f"\n{command}\n{'build':8} {'caches':7} {'clock':>7} {'cpu':>7} {'its own':>8}  phases", flush=True)
        found: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for number in range(asked.rounds):
            for build, tree in list(builds.items())[:: -1 if number % 2 else 1]:
                with tempfile.TemporaryDirectory() as caches:
                    for state in ("empty", "filled"):
                        took, busy, result = seconds_of(command, tree, Path(caches))
                        found.setdefault((build, state), []).append((took, busy))
                        phases = " · ".join(f"{name} {s:.2f}" for name, s in result.get("phases", {}).items())
                        print(
                            f"{build:8} {state:7} {took:7.2f} {busy:7.2f} {result['seconds']:8.2f}  {phases}",
                            flush=True,
                        )
        for (build, state), pairs in found.items():
            said = (f"{statistics.median(s):.2f} ({min(s):.2f} … {max(s):.2f})" for s in zip(*pairs, strict=True))
            print(f"median   {build}, {state}: clock {next(said)} s, cpu {next(said)} s", flush=True)


if __name__ == "__main__":
    main()
