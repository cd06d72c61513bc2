"""A process's part of a benchmark: opens a case at a size, takes rounds of it, lets it go."""

import gc
from collections.abc import Callable
from typing import Any

import torch

from sinkctl.errors import REFUSALS, ModelError, named, out_of_memory
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
        self._name = ""  # of what is open
        self._rounds = 0
        self._cold: set[str] = set()  # ways that have to allocate anew what was let go of

    def facts(self, measured: bool = True) -> dict[str, Any]:
        """The machine, the model if a case has one, the environment; the hardware's rates if `measured`."""
        has_model = any(case.kind not in WITHOUT_MODEL for case in self.recipe.cases)
        device, dtype = self.subject.device, self.subject.dtype
        if has_model:
            device, dtype = self.subject.loaded.device, self.subject.loaded.dtype
        known = f"{self.subject.loaded.name}, {self.subject.loaded.fingerprint}" if has_model else "no model"
        found, choices = [], self.subject.loaded.choices if has_model else {}
        try:
            found = rates(device, dtype, self.clock) if measured else []
        except Exception as error:
            if not out_of_memory(error):
                raise
            choices = choices | {"hardware": f"not measured: {device} is out of memory beside the model"}
        self._tidy()
        return {
            "machine": machine(str(device), str(dtype).removeprefix("torch."), known).model_dump(),
            "model": model_report(self.subject.loaded, []).model_dump() if has_model else None,
            "rates": [rate.model_dump() for rate in found],
            "choices": choices,
            "environment": environment(),
        }

    def open(self, number: int, label: str) -> dict[str, Any]:
        """Build case `number` at the size `label`, and warm its ways up; one that cannot run here is left out.

        Where ours cannot, a ModelError, UsageError or TextError says so; the next case may be opened all the same.
        """
        self.close()
        self._tidy()  # what a refused one had begun to build
        case = self.recipe.cases[number]
        size = sizes(case)[label]
        self._name, self._rounds, failed, added = f"{case.label} at {label}", 0, {}, {}
        self._cold.clear()
        try:
            self._group = group = CASES[case.kind].group(case, self.subject, size)
        except Exception as error:
            if out_of_memory(error):
                raise self._too_large from error
            raise
        for name in list(group.ways):
            try:
                self.clock.warm(name, group.ways[name], self.recipe.timing.warmup)
                added[name] = self.clock.added_bytes(group.ways[name])
            except Exception as error:  # whatever a peer that does not fit raises
                if name == OURS and out_of_memory(error):
                    raise self._too_large from error
                if name == OURS:
                    raise
                failed[name] = _why(error)
            if name in failed:  # and its traceback is gone
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

    @property
    def _too_large(self) -> ModelError:
        return ModelError(f"{self._name}: {self.subject.device} is out of memory")

    def round(self) -> dict[str, float | dict[str, str]]:
        """Seconds a call of every way, one after the other; every other round the other way about.

        Of one that cannot go on the kind of the error and its words instead: it takes part no more.
        """
        assert self._group is not None
        ways, found, failed = self._group.ways, {}, {}
        self._rounds += 1
        with undisturbed():
            for name in list(ways)[:: 1 if self._rounds % 2 else -1]:
                try:
                    if name in self._cold:
                        self.clock.once(ways[name].run)
                        self._cold.remove(name)
                    found[name] = self.clock.sample(name, ways[name])
                except Exception as error:
                    said = self._too_large if out_of_memory(error) else error
                    if name == OURS and not isinstance(said, REFUSALS):
                        raise
                    why = str(said) if name == OURS else _why(error)
                    failed[name] = {"kind": named(said) or ModelError.__name__, "why": why}
                if name in failed:  # and its traceback is gone
                    del ways[name]
                    self._tidy()
                    self._cold = set(ways)
        return found | failed

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


def _why(error: Exception) -> str:
    """Of a peer that did not run."""
    return "out of memory" if out_of_memory(error) else f"{type(error).__name__}: {error}".splitlines()[0][:200]
