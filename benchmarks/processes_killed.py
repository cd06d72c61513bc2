"""One of two processes that stream a corpus is killed at random moments, and the run goes on: are the losses the same?

    python benchmarks/processes_killed.py [--kills 20] [--model FOLDER] [--each record] [--seed 0]

Files of unequal length and records, in parts; a state is saved after every block, so that kills fall on every stage of
writing one. After each kill the other process comes to its own end, which must name the one that died; then one, two or
three processes go on. Printed for every run: kills, and whether `nll.npy`, `texts.npy` and the result are those of a
run that nobody stopped, byte for byte.
"""

import argparse
import json
import random
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from processes import Command, in_small_parts


def corpus(folder: Path) -> list[Path]:
    """Twelve files of 200 to 9,000 characters, and one of 40 records."""
    text = (ROOT / "tests/data/stories.txt").read_text(encoding="utf-8")
    files, at = [], 0
    for number in range(12):
        size = 200 + (number * 7919) % 8800
        files.append(folder / f"text-{number:02}.txt")
        files[-1].write_text(text[at : at + size], encoding="utf-8")
        at += size
    files.append(folder / "records.jsonl")
    lines = (json.dumps({"text": text[at + 200 * i : at + 200 * i + 20 + 37 * i % 400]}) for i in range(40))
    files[-1].write_text("\n".join(lines), encoding="utf-8")
    return files


def started(words: list, processes: int) -> list[Command]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        common = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    return [
        Command(*words, before=in_small_parts, RANK=str(rank), LOCAL_RANK=str(rank), **common)
        for rank in range(processes)
    ]


def under_way(out: Path, launch: int, rank: int) -> bool:
    """Whether a process of this launch has begun to score."""
    try:
        sign = json.loads((out / "state" / f"process-{rank}.json").read_text())
    except (OSError, ValueError):
        return False
    return sign["launch"] == launch and bool(sign["text"])


def kept(out: Path) -> tuple:
    """What must be the same; not times, memory, and how many processes there were."""
    found = json.loads((out / "result.json").read_text())
    found["measurements"] = [m for m in found["measurements"] if not m["name"].startswith("stream.")]
    for untold in ("memory", "processes"):
        del found["stream"][untold]
    del found["seconds"], found["phases"]
    return found, *((out / name).read_bytes() for name in ("nll.npy", "texts.npy"))


def killed(words: list, out: Path, left: int, draw: random.Random) -> tuple[int, int]:
    """A run with up to `left` kills, to its end: (kills, those named by the process that was left)."""
    kills, named, launch, arguments = 0, 0, 1, [*words, "-o", out, "-q"]
    while not (out / "result.json").exists():
        size = 2 if kills < left else draw.choice([1, 2, 3])
        running = started(arguments, size)
        if kills < left:
            victim = draw.randrange(size)
            while running[victim].poll() is None and not under_way(out, launch, victim):
                time.sleep(0.005)
            time.sleep(draw.uniform(0, 1.0))
            if running[victim].poll() is None:
                running[victim].send_signal(signal.SIGKILL)
                kills += 1
                code, _, said = running[1 - victim].ended()
                names = code == 3 and f"process {victim} (pid" in said
                over = code == 0 and not said  # it had ended before the other one was killed
                named += names
                assert names or (over and not victim), (code, said)
        ended = [process.ended() for process in running]
        assert all(code in (0, 3, -signal.SIGKILL) for code, *_ in ended), ended
        launch, arguments = launch + 1, ["stream", "--resume", out, "-q"]
        if not (out / "state/state.json").exists() and not (out / "result.json").exists():
            launch, arguments = 1, [*words, "-o", out, "-q"]  # killed before there was anything to go on from
    return kills, named


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--model", default=str(ROOT / "tests/data/stories260K"))
    parser.add_argument("--each", default="file", choices=["file", "record"])
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    draw, kills, named, runs = random.Random(asked.seed), 0, 0, 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        words = ["stream", *corpus(folder), "--model", asked.model, "-p", "4+60", "-p", "0+64", "--chunk", 32]
        words += ["--each", asked.each]
        code, _, said = Command(*words, "-o", folder / "whole", "-q", before=in_small_parts).ended()
        assert code == 0, said
        while kills < asked.kills:
            out, runs = folder / f"run-{runs}", runs + 1
            more, said = killed(words, out, asked.kills - kills, draw)
            kills, named = kills + more, named + said
            same = kept(out) == kept(folder / "whole")
            print(f"run {runs}: {more} kills, {'the same' if same else 'NOT THE SAME'}", flush=True)
            assert same
    print(f"{kills} kills in {runs} runs, {named} named by the process that was left; every run came out the same")


if __name__ == "__main__":
    main()
