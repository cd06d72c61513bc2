"""CPU seconds of `sinkctl measure` as it comes, and its costs with their errors, beside those of another checkout.

    python benchmarks/measure_cost.py MODEL --against FOLDER [--rounds 2] [--samples 20] [--text FILE]

FOLDER is a checkout of what is compared with. Rounds are interleaved, one process each, on one thread; a process's
user and system time count, loading included, and so do the seconds before its first word on what it found. Prints
medians, their ratio, and the cost lines of each.
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
FOUND = b"so far: "  # begins a line of what can be said already


def spent(pid: int) -> float:
    """CPU seconds of a running process, its threads and the children it waited for included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def measured(tree: Path, asked: list[str]) -> tuple[float, list[tuple[float, str]], dict]:
    """CPU seconds, those at which each first word came and the word, and the result."""
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "sinkctl", "measure", *asked, "--output", f"{out}/run"]
        process = subprocess.Popen(
            command, cwd=tree, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        words = []
        for line in process.stderr:
            if line.startswith(FOUND):
                words.append((spent(process.pid), line.removeprefix(FOUND).decode().strip()))
        _, status, used = os.wait4(process.pid, 0)
        if status:
            sys.exit(f"{tree}: exit status {os.waitstatus_to_exitcode(status)}")
        return used.ru_utime + used.ru_stime, words, json.loads(Path(f"{out}/run/result.json").read_text())


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
            used, words, results[name] = measured(tree, asked)
            seconds[name].append(used)
            print(f"{name}: {used:.1f} CPU seconds", flush=True)
            for at, word in words[:2]:
                print(f"    after {at:.1f} of them ({at / used:.0%}): {word}", flush=True)
    there, here = (median(seconds[name]) for name in trees)
    print(f"medians of {given.rounds}: {there:.0f} there, {here:.0f} here, {here / there:.1%}")
    for name, result in results.items():
        for line in result["measure"]["checkpoints"][0]["costs"]:
            cost, error = 100 * (line["perplexity"] / line["baseline"] - 1), line.get("error")
            print(f"{name}: {line['name']}: {cost:+.2f} %" + ("" if error is None else f" ± {100 * error:.2f}"))


if __name__ == "__main__":
    main()
