"""One clock a run: phases add up to what passed, from the start of the process on."""

import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch._dynamo.utils as dynamo
from torch._guards import CompileContext, CompileId, compile_context

from sinkctl import clock
from sinkctl.clock import Clock, carry, phase, phases, spent, timed


@pytest.fixture
def now(monkeypatch):
    """A clock that stands still until it is set, as `now.time`; and seconds of torch.compile, `now.compiled`."""
    state = SimpleNamespace(time=100.0, compiled=0.0)
    monkeypatch.setattr(clock.time, "monotonic", lambda: state.time)
    monkeypatch.setattr(dynamo, "calculate_time_spent", lambda: {"total_wall_time": state.compiled})
    return state


def test_every_moment_belongs_to_the_innermost_phase_and_compiling_to_none_of_them(now):
    running = Clock(began=90.0)
    with running.phase("scoring"):
        now.time += 2
        with running.phase("first block"):
            now.time, now.compiled = now.time + 5, 3.0
        now.time, now.compiled = now.time + 1, 0.0  # torch._dynamo.reset() forgets what it counted
        with running.phase("scoring"):
            now.time += 4
    now.time += 0.5
    assert running.phases() == {"starting": 10.5, "scoring": 7.0, "compiling": 3.0, "first block": 2.0}
    assert sum(running.phases().values()) == now.time - 90.0


def test_kernels_that_triton_compiles_by_itself_count_as_compiling(now, monkeypatch):
    knobs = SimpleNamespace(compilation=SimpleNamespace(listener=None))
    monkeypatch.setitem(sys.modules, "triton.knobs", knobs)
    running = Clock()
    with running.phase("first block"):
        now.time += 4
        knobs.compilation.listener(src=None, times=SimpleNamespace(total=3_000_000), cache_hit=False)
        with compile_context(CompileContext(CompileId(frame_id=0, frame_compile_id=0))):  # torch.compile times it
            knobs.compilation.listener(src=None, times=SimpleNamespace(total=9_000_000), cache_hit=False)
    assert running.phases() == {"compiling": 3.0, "first block": 1.0}
    knobs.compilation.listener = other = object()
    running.phases()
    assert knobs.compilation.listener is other  # somebody else's


def test_a_generator_left_half_way_leaves_no_phase_open(now):
    running = Clock()

    def tokens():
        with running.phase("first token"):
            yield

    with running.phase("generating"):
        left = tokens()
        next(left)
        now.time += 1
    now.time += 2
    left.close()
    now.time += 4
    assert running.phases() == {"first token": 1.0, "starting": 6.0}


def test_what_runs_within_shares_one_clock_and_a_resumed_run_counts_what_it_took_before(now):
    @timed()
    def task():
        carry(50.0)
        with phase("scoring"):
            now.time += 3
        return phases()

    with timed(began=99.0):
        assert task() == {"before it was stopped": 50.0, "starting": 1.0, "scoring": 3.0}
        assert spent() == 54.0
    assert task() == {"before it was stopped": 50.0, "scoring": 3.0}  # by itself: from the call on
    with phase("scoring"):  # and where no clock runs, none is asked
        assert (phases(), spent()) == ({}, 0.0)


def test_a_run_begins_with_its_process_unless_that_was_another_program_before():
    said = "import time; time.sleep(0.3); from sinkctl import clock; print(clock.process_began(), clock.IMPORTED)"
    before = time.monotonic()
    began, imported = map(float, subprocess.check_output([sys.executable, "-c", said]).split())
    assert before - 0.02 <= began <= imported - 0.3  # the system counts in hundredths
    said = said.replace("clock; print", "clock; clock.EXECUTED = 0.5; print")
    waited = f"import os, sys, time; time.sleep(0.4); os.execv(sys.executable, [sys.executable, '-c', {said!r}])"
    began, imported = map(float, subprocess.check_output([sys.executable, "-c", waited]).split())
    assert began == imported
