"""A corpus shared out among processes, as `sinkctl stream --each file` does it under torchrun.

Every run is of the real command: what the processes say to each other, their states and what the first of them puts
together are part of it. Loading is not timed.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import torch

from sinkctl.errors import of_exit
from sinkctl.model.load import DEMO
from sinkctl.recipe.bench import ProcessesCase
from sinkctl.recipe.sizes import Size
from sinkctl.result.bench import OURS
from sinkctl.result.source import ROOT
from sinkctl.result.store import RESULT
from sinkctl.tasks.bench.subject import Subject
from sinkctl.tasks.bench.way import Group, Reading

RANDOM = "random weights are made anew by every process; give a model"
BYTES_A_TOKEN = 3.25  # of the built-in text, by the built-in tokenizer


def group(case: ProcessesCase, subject: Subject, size: Size) -> Group:
    """Tokens a second; and the share of so many times what the fewest processes do each, in the same round."""
    on_cpu, count = subject.device.type == "cpu", size["processes"]
    here = len(_cores()) if on_cpu else torch.cuda.device_count()
    lacks = f"{here} {'core' if on_cpu else 'GPU'}{'s' * (here != 1)} here" if count > here else None
    lacks = RANDOM if subject.recipe.shape else lacks
    if lacks is not None:
        return Group(choices={f"{count} processes": f"left out: {lacks}"})
    if case.label not in subject.kept:
        subject.kept[case.label] = _taken_in_turns(case, subject, [n for n in case.processes if n <= here])
    rates = subject.kept[case.label]
    readings = [Reading(OURS, "tokens_per_s", "tok/s", "higher", rates[count])]
    fewest = min(rates)
    if count > fewest:
        pairs = zip(rates[count], rates[fewest], strict=True)
        shares = [100 * (many / count) / (few / fewest) for many, few in pairs]
        readings.append(Reading(OURS, "efficiency", "%", "higher", shares))
    how = "each on a core of its own, one thread" if on_cpu else "each on a GPU of its own"
    return Group(readings=readings, choices={"processes": how})


def _taken_in_turns(case: ProcessesCase, subject: Subject, counts: list[int]) -> dict[int, list[float]]:
    """Tokens a second of every round, by number of processes."""
    rates: dict[int, list[float]] = {count: [] for count in counts}
    with tempfile.TemporaryDirectory() as scratch:
        recipe = _recipe(case, subject, Path(scratch))
        for number in range(case.rounds):
            for count in counts if number % 2 == 0 else counts[::-1]:
                subject.told(f"{count} processes", number / case.rounds)
                out = Path(scratch) / f"{number}-{count}"
                run(recipe, count, out, pinned=subject.device.type == "cpu")
                found = json.loads((out / RESULT).read_text(encoding="utf-8"))["measurements"]
                rates[count] += next(each["samples"] for each in found if each["name"] == "stream.tokens_per_s")
    return rates


def _recipe(case: ProcessesCase, subject: Subject, folder: Path) -> Path:
    """The corpus, stretches of the built-in text, and a recipe that streams it."""
    text, size = (DEMO / "text.txt").read_bytes(), round(case.tokens * BYTES_A_TOKEN)
    files = [folder / f"{number}.txt" for number in range(case.texts)]
    for number, path in enumerate(files):
        at = number * size % max(1, len(text) - size)
        path.write_bytes(text[at : at + size])
    policy = {"kind": "sink_window", "sinks": case.sinks, "window": case.window}
    recipe = {
        "task": "stream",
        "model": subject.recipe.model.model_dump(mode="json"),
        "text": {"files": [str(path) for path in files], "each": "file", "errors": "replace"},
        "policies": [policy],
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")  # which is YAML too
    return path


def run(recipe: Path, processes: int, output: Path, pinned: bool) -> None:
    """Start so many, as torchrun does, and wait for them; an error says what one of them said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(processes)}
    common |= {"OMP_NUM_THREADS": "1"} if pinned else {}
    common["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    words = [sys.executable, "-P", "-m", "sinkctl", "stream", "--recipe", str(recipe), "-o", str(output), "-q"]
    started: list[subprocess.Popen] = []
    try:
        for rank in range(processes):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
            started.append(subprocess.Popen(words, env=os.environ | common | own, text=True, **quiet))
            if pinned:
                psutil.Process(started[-1].pid).cpu_affinity([_cores()[rank]])
        for process in started:
            said = process.communicate()[1]
            if process.returncode:
                words = (said.strip().splitlines() or ["one ended"])[-1]
                raise of_exit(process.returncode)(f"{processes} processes: {words}")
    finally:
        for process in started:
            process.kill()


def _cores() -> list[int]:
    """Those that this process may run on; psutil cannot say on macOS, where none is pinned."""
    own = psutil.Process()
    return own.cpu_affinity() if hasattr(own, "cpu_affinity") else list(range(os.cpu_count() or 1))
