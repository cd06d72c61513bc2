"""Four kinds of use, by the README of an earlier version and by today's: words before a command, and its seconds.

    python benchmarks/four_users.py --against CHECKOUT_OF_B01FE6F

The same task is done in both: score a long text with and without its first tokens, find a checkpoint's sinks, design a
sink in, fail a job where a number is worse. Words are counted from the top of the README, through the page that it
sends this reader to, up to the first command that does the task. Seconds are those of the commands as they are printed
there, each from an empty folder, in processes of their own, the two versions in turns; medians over the rounds.
"""

import argparse
import os
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).parent.parent
BOOK = HERE / "sinkctl/model/demo/text.txt"
BYTES = 60_000  # of the built-in novel, as book.txt
# A use: (pages read in their order, commands that do the task), earlier and today.
STREAM = "sinkctl stream book.txt -p 4+252 -p 0+256"
GATE = "sinkctl stream book.txt --limit 1000 --fail-on 'perplexity<=100'"
CONVERT = "sinkctl convert demo --to sink_logit -o with-logit --eval-tokens 500"
USES = {
    "a long file": (
        (["README.md"], "sinkctl stream book.txt --policy 4+252 --policy 0+256"),
        (["README.md", "docs/tutorials/long_file.md"], f"{STREAM} -o runs/book"),
    ),
    "a checkpoint": (
        (["README.md"], "sinkctl measure --samples 20"),
        (["README.md", "docs/tutorials/checkpoint.md"], "sinkctl measure demo --samples 20 -o runs/measured"),
    ),
    "a designed sink": (
        (["README.md"], f"{CONVERT} --fail-on 'gap_closed>=80'"),
        (["README.md", "docs/tutorials/designed_sink.md"], CONVERT),
    ),
    "a gate in CI": ((["README.md"], GATE), (["README.md", "docs/tutorials/ci.md"], GATE)),
}


def words_before(tree: Path, pages: list[str], command: str) -> int:
    """Words up to the command; of a page that sends on, up to the name of the next one."""
    total = 0
    for page, goal in zip(pages, [*pages[1:], command], strict=True):
        text = (tree / page).read_text(encoding="utf-8")
        before, found, _ = text.partition(goal)
        assert found, f"{tree / page}: {goal} is not in it"
        total += len(before.split())
    return total


def seconds(tree: Path, command: str) -> tuple[float, float]:
    """Of the wall, and of the processor, in a folder that holds book.txt alone."""
    with TemporaryDirectory() as desk:
        (Path(desk) / "book.txt").write_bytes(BOOK.read_bytes()[:BYTES])
        environment = {**os.environ, "PYTHONPATH": str(tree), "SINKCTL_SETTINGS": "off"}
        before, began = os.times(), time.perf_counter()
        line = [sys.executable, "-m", *shlex.split(command)]
        done = subprocess.run(line, cwd=desk, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        after = os.times()
        own = after.children_user + after.children_system - before.children_user - before.children_system
        return time.perf_counter() - began, own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, required=True, help="A checkout of the earlier version.")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", choices=USES, action="append")
    asked = parser.parse_args()
    trees = (asked.against.resolve(), HERE)
    print("| use | words before | now | s, wall, before | now | s, processor, before | now |", flush=True)
    print("|---|---:|---:|---:|---:|---:|---:|", flush=True)
    for use in asked.only or USES:
        pairs = list(zip(trees, USES[use], strict=True))
        words = [words_before(tree, *told) for tree, told in pairs]
        rounds = [[seconds(tree, command) for tree, (_, command) in pairs] for _ in range(asked.rounds)]
        wall, own = ([statistics.median(r[way][kind] for r in rounds) for way in (0, 1)] for kind in (0, 1))
        said = [f"{n:,}" for n in words] + [f"{s:.1f}" for s in (*wall, *own)]
        print(f"| {use} | {' | '.join(said)} |", flush=True)


if __name__ == "__main__":
    main()
