"""Where the seconds of a run go: one clock, from the start of the process (or of a Python call) to the end, by phase.

Importing this imports no torch.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

STARTING, COMPILING, BEFORE = "starting", "compiling", "before it was stopped"
IMPORTED = time.monotonic()
EXECUTED = 10.0  # seconds that no Python takes to begin: the process was another program before (a script that execs)


class Clock:
    """Seconds by phase; every moment belongs to one, the innermost that is open, and they add up to the whole."""

    def __init__(self, began: float | None = None):
        """`began`: of `time.monotonic()`; none: now."""
        self._seconds: dict[str, float] = {}
        self._open = [STARTING]
        self._last = time.monotonic() if began is None else began
        self._compiled = _compiled()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What passes within belongs to `name`; what is compiled meanwhile, to compiling."""
        self._charge()
        depth = len(self._open)
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            del self._open[depth:]  # with what a generator that was left half-way has open

    def carry(self, seconds: float) -> None:
        """Count what a stopped run took before this process went on with it."""
        if seconds:
            self._seconds = {BEFORE: seconds} | self._seconds

    def phases(self) -> dict[str, float]:
        """Seconds up to now by phase, in the order they began."""
        self._charge()
        return dict(self._seconds)

    def _charge(self) -> None:
        now, compiled = time.monotonic(), _compiled()
        passed = now - self._last
        compiling = min(passed, max(0.0, compiled - self._compiled))  # torch._dynamo.reset() begins again from 0
        for name, seconds in ((COMPILING, compiling), (self._open[-1], passed - compiling)):
            if seconds > 0:
                self._seconds[name] = self._seconds.get(name, 0.0) + seconds
        self._last, self._compiled = now, compiled


_RUNNING: ContextVar[Clock | None] = ContextVar("clock", default=None)


@contextmanager
def timed(began: float | None = None) -> Iterator[None]:
    """One clock for all that runs within: the one that runs already, or a new one from `began`."""
    if _RUNNING.get() is not None:
        yield
        return
    token = _RUNNING.set(Clock(began))
    try:
        yield
    finally:
        _RUNNING.reset(token)


@contextmanager
def phase(name: str) -> Iterator[None]:
    """A phase of the clock that runs; nothing where none does."""
    clock = _RUNNING.get()
    if clock is None:
        yield
        return
    with clock.phase(name):
        yield


def phases() -> dict[str, float]:
    """Seconds up to now by phase of the clock that runs; none where none does."""
    clock = _RUNNING.get()
    return {} if clock is None else clock.phases()


def spent() -> float:
    """Seconds up to now of the clock that runs."""
    return sum(phases().values())


def carry(seconds: float) -> None:
    """Count what a stopped run took before this process went on with it."""
    clock = _RUNNING.get()
    if clock is not None:
        clock.carry(seconds)


def process_began() -> float:
    """`time.monotonic()` when this process began; where it was another program first, when sinkctl was imported.

    From /proc, to 10 ms: psutil adds the time of boot, which Linux tells in whole seconds. Elsewhere psutil's is exact.
    """
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, IndexError, ValueError):
        import psutil

        age = time.time() - psutil.Process().create_time()
    now = time.monotonic()
    return now - age if 0 <= age - (now - IMPORTED) < EXECUTED else IMPORTED


class _Triton:
    """Adds up what Triton takes to compile kernels, but for those that torch.compile makes and times itself."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def watch(self) -> None:
        """Once Triton is imported, unless somebody listens already."""
        knobs = sys.modules.get("triton.knobs")
        compilation = getattr(knobs, "compilation", None)
        if getattr(compilation, "listener", self) is None:
            compilation.listener = self

    def __call__(self, *, times, **_) -> None:
        context = sys.modules.get("torch._guards")
        if context is None or context.CompileContext.current_compile_id() is None:
            self.seconds += times.total / 1e6


_TRITON = _Triton()


def _compiled() -> float:
    """Seconds that torch.compile and Triton took in this process so far; neither is imported for it."""
    _TRITON.watch()
    dynamo = sys.modules.get("torch._dynamo.utils")
    return _TRITON.seconds + (0.0 if dynamo is None else dynamo.calculate_time_spent().get("total_wall_time", 0.0))
