"""CPU seconds of `sinkctl measure` as it comes, and its costs with their errors, beside those of another checkout.

    python benchmarks/measure_cost.py MODEL --against FOLDER [--rounds 2] [--samples 20] [--text FILE]

FOLDER is a checkout of what is compared with. Rounds are interleaved, one process each, on one thread; a process's
user and system time count, loading included. Prints medians, their ratio, and the cost lines of each.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parents[1]


def measured(tree: Path, asked: list[str]) -> tuple[float, dict]:
    """CPU seconds, and the result."""
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile() as out:
        command = [sys.executable, "-m", "sinkctl", "measure", *asked, "--json", "--quiet"]
        process = subprocess.Popen(command, cwd=tree, env=environment, stdout=out)
        _, status, used = os.wait4(process.pid, 0)
        if status:
            sys.exit(f"{tree}: exit status {os.waitstatus_to_exitcode(status)}")
        out.seek(0)
        return used.ru_utime + used.ru_stime, json.load(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--against", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--text")
    given = parser.parse_args()
    asked = [given.model, "--samples", str(given.samples), *(["--text", given.text] if given.text else [])]
    trees = {"there": given.against.resolve(), "here": HERE}
    seconds: dict[str, list[float]] = {name: [] for name in trees}
    results = {}
    for _ in range(given.rounds):
        for name, tree in trees.items():
            used, results[name] = measured(tree, asked)
            seconds[name].append(used)
            print(f"{name}: {used:.0f} CPU seconds", flush=True)
    there, here = (median(seconds[name]) for name in trees)
    print(f"medians of {given.rounds}: {there:.0f} there, {here:.0f} here, {here / there:.1%}")
    for name, result in results.items():
        for line in result["measure"]["checkpoints"][0]["costs"]:
            cost, error = 100 * (line["perplexity"] / line["baseline"] - 1), line.get("error")
            print(f"{name}: {line['name']}: {cost:+.2f} %" + ("" if error is None else f" ± {100 * error:.2f}"))


if __name__ == "__main__":
    main()
