"""Does the gate hold and does it catch? `sinkctl bench ci` against its own baseline, and with a planted slow-down.

    python benchmarks/gates.py [--trials 10] [--percent 15] [--busy]

A trial saves a baseline, runs the suite again, which must pass, and once more with every block of a stream made slower
by --percent (a copy of the package spins after each), which must fail and name the stream. --busy keeps another process
at work on every core in turns of a second, as a shared machine does. Prints a table last.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import sinkctl

PACKAGE = Path(sinkctl.__file__).parent
PLANTED = """

import time  # noqa: E402

_step = BlockScorer.step


def _slower(self, ids_T, target_T):
    began = time.perf_counter()
    losses = _step(self, ids_T, target_T)
    end = began + {factor} * (time.perf_counter() - began)
    while time.perf_counter() < end:
        pass
    return losses


BlockScorer.step = _slower
"""


def planted(folder: Path, percent: float) -> Path:
    """A copy of the package whose stream is slower; what goes on PYTHONPATH."""
    shutil.copytree(PACKAGE, folder / "sinkctl", ignore=shutil.ignore_patterns("__pycache__"))
    if not (PACKAGE / "recipes").is_dir():
        shutil.copytree(PACKAGE.parent / "recipes", folder / "recipes")
    with (folder / "sinkctl/tasks/stream/scorers.py").open("a", encoding="utf-8") as file:
        file.write(PLANTED.format(factor=1 + percent / 100))
    return folder


def bench(*arguments: str | Path, path: Path | None = None) -> tuple[int, str, float]:
    """(exit code, last words, seconds) of `sinkctl bench ci`."""
    environment = os.environ | ({} if path is None else {"PYTHONPATH": str(path)})
    command = [sys.executable, "-P", "-m", "sinkctl", "bench", "ci", "--quiet", *map(str, arguments)]
    began = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return (
        done.returncode,
        done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "",
        time.monotonic() - began,
    )


def changes(folder: Path) -> dict[str, tuple[float, float, bool]]:
    """Gated rows of a run folder: (percent worse, as timed, measured twice)."""
    found = json.loads((folder / "result.json").read_text())["bench"]["changes"]
    return {c["name"]: (c["percent"], c["raw_percent"], c["reran"]) for c in found if c["limit"] is not None}


def disturb(seed: int) -> None:
    draw = random.Random(seed)
    while True:
        end = time.monotonic() + draw.uniform(0.2, 2)
        while time.monotonic() < end:
            sum(range(10_000))
        time.sleep(draw.uniform(0.2, 4))


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--trials", type=int, default=10)
    arguments.add_argument("--percent", type=float, default=15.0)
    arguments.add_argument("--busy", action="store_true")
    options = arguments.parse_args()
    others = [multiprocessing.Process(target=disturb, args=(n,), daemon=True) for n in range(os.cpu_count() or 1)]
    for other in others if options.busy else []:
        other.start()
    held = caught = 0
    rows: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        slower = planted(Path(temporary, "slower"), options.percent)
        for trial in range(1, options.trials + 1):
            here = Path(temporary, str(trial))
            base = Path(temporary, f"{trial}.json")
            code, said, took = bench("--save-baseline", base)
            if code:
                raise SystemExit(said)
            same, said_same, took_same = bench("--baseline", base, "-o", here / "same")
            slow, said_slow, took_slow = bench("--baseline", base, "-o", here / "slow", path=slower)
            held += same == 0
            caught += slow == 1 and "stream" in said_slow
            for name, code, said, time_taken in (
                ("same", same, said_same, took_same), ("slower", slow, said_slow, took_slow)
            ):  # fmt: skip
                folder = here / ("same" if name == "same" else "slow")
                seen = changes(folder) if (folder / "result.json").exists() else {}
                shown = "  ".join(
                    f"{row.split('.')[0]} {worse:+.1f} % (as timed {raw:+.1f}{', twice' if twice else ''})"
                    for row, (worse, raw, twice) in seen.items()
                )
                rows.append(f"{trial:5d}  {name:6s}  exit {code}  {time_taken:4.0f} s  {shown or said}")
                print(rows[-1], flush=True)
    machine = f"{os.cpu_count()} cores{', others at work on them' if options.busy else ''}"
    print(f"\n{machine}; a run of `sinkctl bench ci` took {took:.0f} s")
    print("\n".join(rows))
    print(f"passed its own baseline: {held} of {options.trials}")
    print(f"caught a stream slower by {options.percent:g} %: {caught} of {options.trials}")


if __name__ == "__main__":
    main()
