"""Seconds that a whole command takes, in processes of their own: the clock's, and by phase, as the run itself says."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from sinkctl.errors import of_exit
from sinkctl.model.settings import ModelSettings
from sinkctl.recipe.bench import StartupCase
from sinkctl.recipe.schema import ConvertRecipe, GenerateRecipe, MeasureRecipe, Recipe, StreamRecipe
from sinkctl.recipe.sizes import STARTUP, Size
from sinkctl.result.bench import OURS
from sinkctl.result.store import RESULT
from sinkctl.tasks.bench.subject import Subject
from sinkctl.tasks.bench.way import Group, Reading

CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH", "SINKCTL_CACHE")
# Phases of a run → what they are shown as; all others are the rest.
SHOWN = {
    "starting": "imports", "importing": "imports", "loading": "loading", "preparing": "preparing",
    "compiling": "compiling", "first block": "first", "first token": "first",
}  # fmt: skip


def group(case: StartupCase, subject: Subject, size: Size) -> Group:
    """Readings of `timing.rounds` runs, after those that warm up: one at least where caches are to be filled."""
    recipe, timing = _recipe(size["command"], subject.recipe.model, case.tokens), subject.recipe.timing
    filled = size["caches"] == "filled"
    before, runs = max(filled, timing.warmup), []
    with TemporaryDirectory() as kept:
        for number in range(before + timing.rounds):
            subject.told(f"{case.label} {size['command']}, {size['caches']} caches", number / (before + timing.rounds))
            with TemporaryDirectory() as fresh:
                runs.append(_run(recipe, Path(kept if filled else fresh)))
    samples = {metric: [run[metric] for run in runs[before:]] for metric in STARTUP}
    return Group(readings=[Reading(OURS, metric, "s", "lower", found) for metric, found in samples.items()])


def _recipe(command: str, model: ModelSettings, tokens: int) -> Recipe:
    """What the command runs: little, so that its beginning is most of it."""
    if command == "generate":
        return GenerateRecipe(model=model, prompts=("It was",), tokens=tokens, stop_at_eos=False)
    if command == "measure":
        return MeasureRecipe(model=model, input={"samples": 4, "length": 64}, cost={"run": False})
    if command == "convert":
        return ConvertRecipe(model=model, calibration={"samples": 2}, evaluation={"run": False})
    return StreamRecipe(model=model, limit=tokens)


def _run(recipe: Recipe, caches: Path) -> dict[str, float]:
    """STARTUP → seconds of one run."""
    command = "stream" if recipe.task == "generate" else recipe.task
    with TemporaryDirectory() as scratch:
        file, output = Path(scratch) / "recipe.yaml", Path(scratch) / "out"
        file.write_text(recipe.model_dump_json(), encoding="utf-8")  # JSON is YAML
        words = [sys.executable, "-P", "-m", "sinkctl", command, "--recipe", str(file), "-o", str(output), "--quiet"]
        own = {name: str(caches / name.lower()) for name in CACHES}
        began = time.monotonic()
        done = subprocess.run(words, env=os.environ | own, capture_output=True, text=True, check=False)
        took = time.monotonic() - began
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
            raise of_exit(done.returncode)(f"{command}: {said[-1].removeprefix('sinkctl: ')}")
        result = json.loads((output / RESULT).read_text(encoding="utf-8"))
    found = dict.fromkeys(STARTUP, 0.0) | {"seconds": took, "own": result["seconds"]}
    for phase, seconds in result["phases"].items():
        found[SHOWN.get(phase, "rest")] += seconds
    return found
