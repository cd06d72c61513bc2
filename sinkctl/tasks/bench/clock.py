"""Timing: samples that repeat a call for long enough, by device events on a GPU, in turns."""

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from sinkctl.model.memory import process_peak
from sinkctl.tasks.bench.way import Way

MOST_CALLS = 100_000  # of a sample


class Clock:
    """Times calls on one device."""

    def __init__(self, device: torch.device, seconds: float):
        """A sample repeats its call for at least `seconds`, as far as one call tells how long it takes."""
        self._device, self._seconds = device, seconds
        self._calls: dict[str, int] = {}

    def warm(self, name: str, way: Way, rounds: int) -> None:
        """Run a way for `rounds` rounds, one at least, and a call before; settle how many calls make a sample."""
        took = self.once(way.run)
        for _ in range(1 if way.once else max(1, rounds)):
            self._calls[name] = 1 if way.once else min(MOST_CALLS, math.ceil(self._seconds / max(took, 1e-9)))
            took = self.sample(name, way)
        if not way.once:
            self._calls[name] = min(MOST_CALLS, math.ceil(self._seconds / took))

    def sample(self, name: str, way: Way) -> float:
        """Seconds a call."""
        calls = self._calls[name]

        def repeated() -> None:
            for _ in range(calls):
                way.run()

        return self.once(repeated) / calls

    def once(self, run: Callable[[], object]) -> float:
        """Seconds that `run` takes, until the device is done with it."""
        if self._device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize(self._device)
            start.record()
            run()
            end.record()
            torch.cuda.synchronize(self._device)
            return start.elapsed_time(end) / 1e3
        self._synchronize()
        began = time.perf_counter()
        run()
        self._synchronize()
        return time.perf_counter() - began

    def added_bytes(self, way: Way) -> int | None:
        """Most memory that a call takes beside what was held before it; None where that cannot be known."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            held = torch.cuda.memory_allocated(self._device)
            self.once(way.run)
            return torch.cuda.max_memory_allocated(self._device) - held
        held = process_peak(reset=True)
        self.once(way.run)
        return None if held is None else process_peak() - held

    def _synchronize(self) -> None:
        if self._device.type == "mps":
            torch.mps.synchronize()


@contextmanager
def undisturbed() -> Iterator[None]:
    """No garbage collection inside `with`."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
