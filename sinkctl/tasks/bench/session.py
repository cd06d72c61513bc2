"""A process's part of a benchmark: opens a case at a size, takes rounds of it, lets it go."""

import gc
from collections.abc import Callable
from typing import Any

import torch

from sinkctl.errors import ModelError
from sinkctl.recipe.bench import AnyCase
from sinkctl.recipe.schema import BenchRecipe
from sinkctl.recipe.sizes import sizes
from sinkctl.result.bench import OURS
from sinkctl.result.environment import environment, machine
from sinkctl.tasks.bench.cases import CASES
from sinkctl.tasks.bench.clock import Clock, undisturbed
from sinkctl.tasks.bench.rates import rates
from sinkctl.tasks.bench.subject import Subject
from sinkctl.tasks.bench.way import Group
from sinkctl.tasks.stream.outcome import model_report

WITHOUT_MODEL = ("kernel",)  # kinds of cases


class Session:
    """Answers what `driver` asks, in plain data."""

    def __init__(self, recipe: dict[str, Any], told: Callable[[str, float], None] = lambda what, share: None):
        self.recipe = BenchRecipe.model_validate(recipe)
        timing = self.recipe.timing
        if timing.threads is not None:
            torch.set_num_threads(timing.threads)
        torch.manual_seed(timing.seed)
        self.subject = Subject(self.recipe, told)
        self.clock = Clock(self.subject.device, timing.seconds)
        self._group: Group | None = None
        self._rounds = 0

    def facts(self, measured: bool = True) -> dict[str, Any]:
        """The machine, the model if a case has one, the environment; the hardware's rates if `measured`."""
        has_model = any(case.kind not in WITHOUT_MODEL for case in self.recipe.cases)
        device, dtype = self.subject.device, self.subject.dtype
        if has_model:
            device, dtype = self.subject.loaded.device, self.subject.loaded.dtype
        known = f"{self.subject.loaded.name}, {self.subject.loaded.fingerprint}" if has_model else "no model"
        found = rates(device, dtype, self.clock) if measured else []
        self._tidy()
        return {
            "machine": machine(str(device), str(dtype).removeprefix("torch."), known).model_dump(),
            "model": model_report(self.subject.loaded, []).model_dump() if has_model else None,
            "rates": [rate.model_dump() for rate in found],
            "choices": self.subject.loaded.choices if has_model else {},
            "environment": environment(),
        }

    def open(self, number: int, label: str) -> dict[str, Any]:
        """Build case `number` at the size `label`, and warm its ways up; one that cannot run here is left out.

        Where ours cannot, a ModelError, UsageError or TextError says so; the next case may be opened all the same.
        """
        self.close()
        self._tidy()  # what a refused one had begun to build
        case = self.recipe.cases[number]
        module = CASES[case.kind]
        size = sizes(case)[label]
        try:
            self._group = group = module.group(case, self.subject, size)
        except torch.OutOfMemoryError as error:
            raise self._too_large(case, label) from error
        self._rounds, failed, added = 0, {}, {}
        for name, way in list(group.ways.items()):
            try:
                self.clock.warm(name, way, self.recipe.timing.warmup)
                added[name] = self.clock.added_bytes(way)
            except Exception as error:  # whatever a peer that does not fit raises
                memory = isinstance(error, torch.OutOfMemoryError)
                if name == OURS and memory:
                    raise self._too_large(case, label) from error
                if name == OURS:
                    raise
                failed[name] = "out of memory" if memory else f"{type(error).__name__}: {error}".splitlines()[0][:200]
                del group.ways[name]
                self._tidy()
        self._tidy()
        return {
            "size": size,
            "metric": group.metric,
            "yardstick": group.yardstick if group.yardstick in group.ways else None,
            "ways": {name: way.work.model_dump() for name, way in group.ways.items()},
            "other": {name: way.other for name, way in group.ways.items()},
            "added": added,
            "readings": [vars(reading) for reading in group.readings],
            "choices": group.choices,
            "failed": failed,
        }

    def _too_large(self, case: AnyCase, label: str) -> ModelError:
        return ModelError(f"{case.label} at {label}: {self.subject.device} is out of memory")

    def round(self) -> dict[str, float]:
        """Seconds a call of every way, one after the other; every other round the other way about."""
        assert self._group is not None
        ways = list(self._group.ways.items())
        ways = ways if self._rounds % 2 == 0 else ways[::-1]
        self._rounds += 1
        with undisturbed():
            return {name: self.clock.sample(name, way) for name, way in ways}

    def close(self) -> None:
        """Let the ways go, and what they hold."""
        if self._group is not None:
            self._group = None
            torch._dynamo.reset()
            self._tidy()

    def _tidy(self) -> None:
        gc.collect()
        if self.subject.device.type == "cuda":
            torch.cuda.empty_cache()
