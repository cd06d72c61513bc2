"""Workers of `sinkctl bench` that die, and another version's that fail: what that costs, and what it does not."""

import os
import signal
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from in_process import InProcess

import sinkctl
from sinkctl.errors import Interrupted, ModelError, SinkctlError, UnforeseenError
from sinkctl.recipe.load import validate
from sinkctl.result.bench import OURS
from sinkctl.tasks.bench import driver, task
from sinkctl.tasks.bench.against import Version
from sinkctl.tasks.bench.cases import stream
from sinkctl.tasks.bench.driver import HERE, Collected, Driver
from sinkctl.tasks.bench.process import PROTOCOL, DiedError, KilledError, Worker
from sinkctl.tasks.bench.way import Group, Way


def recipe_of(windows=(12, 13, 14), **timing):
    """A stream at each of the windows: 4+12, ..."""
    timing = {"rounds": 2, "warmup": 0, "seconds": 1e-4, "threads": 1} | timing
    case = {"kind": "stream", "windows": list(windows), "peers": []}
    plain = {"task": "bench", "shape": "tiny", "model": {"device": "cpu", "dtype": "float32"}, "cases": [case]}
    return validate(plain | {"timing": timing})


@pytest.fixture
def workers(in_this_process, monkeypatch):
    """Those that were started; `before` is called with each, what it is asked, and at which size.

    What is timed is nothing, and another version is this one.
    """

    class Asked(InProcess):
        started, before = [], lambda worker, do, label: None

        def __init__(self, *given, **named):
            super().__init__(*given, **named)
            self.started.append(self)

        def ask(self, do, **request):
            self.label = request.get("label", getattr(self, "label", None))
            Asked.before(self, do, self.label)
            return super().ask(do, **request)

    nothing = Group("tokens_per_s", {OURS: Way(lambda: None, once=True)})
    monkeypatch.setattr(driver, "Worker", Asked)
    monkeypatch.setattr(stream, "group", lambda *_: Group(nothing.metric, dict(nothing.ways)))
    monkeypatch.setattr(task, "checkout", lambda ref, told: nullcontext(Version(Path("python"), 40 * "0")))
    return Asked


def test_a_worker_that_is_killed_costs_its_row_and_the_next_ones_have_another(workers):
    """At the end of a row nothing: another process took the memory, and what was measured stands."""

    def before(worker, do, label):
        if (label, do) in (("4+12", "open"), ("4+13", "round"), ("4+14", "close")):
            raise KilledError("ended by signal 9")

    workers.before, recipe = before, recipe_of([12, 13, 14, 15])
    taking = Driver(recipe, {HERE: "a"}, progress=lambda _: None, stop=bool)
    found = taking.collect(Collected(), taking.keys()).found[HERE]
    assert len(workers.started) == 4
    assert [one.refusal and one.refusal["why"] for one in found.values()] == ["ended by signal 9"] * 2 + [None] * 2
    assert [one.measured for one in found.values()] == [False, False, True, True]
    with pytest.raises(SinkctlError, match=r"^ended by signal 9$"):
        sinkctl.bench(recipe_of([12]), progress=lambda _: None)


@pytest.mark.parametrize("do", ["open", "round", "close"])
def test_a_worker_that_crashes_ends_the_run_which_can_be_resumed(do, workers, tmp_path):
    def before(worker, asked, label):
        if (label, asked) == ("4+13", do):
            raise DiedError("ended by signal 11")

    workers.before, how = before, {"output": tmp_path / "run", "progress": lambda _: None}
    with pytest.raises(DiedError, match=r"^ended by signal 11$"):
        sinkctl.bench(recipe_of(), **how)
    opened = []
    workers.before = lambda worker, asked, label: opened.append(label) if asked == "open" else None
    result = sinkctl.bench(recipe_of(), resume=True, **how)
    assert opened == ["4+13", "4+14"]
    assert (len(result.bench.rows), result.bench.refused) == (3, [])


@pytest.mark.skipif(sys.platform == "win32", reason="processes end by no signals there")
@pytest.mark.parametrize(("sign", "kind"), [("KILL", KilledError), ("SEGV", DiedError), ("TERM", DiedError)])
def test_of_what_ends_a_worker_the_kernel_s_killer_alone_is_for_memory(sign, kind, tmp_path):
    """In the midst of an answer, too."""
    python = tmp_path / "python"
    told = f"""read request; echo '{{"answer": {PROTOCOL}}}'; read request; printf '{{"ans'; kill -{sign} $$"""
    python.write_text(f"#!/bin/sh\n{told}\n")
    python.chmod(0o755)
    number = getattr(signal, f"SIG{sign}").value
    with Worker({}, python=os.fspath(python)) as worker:
        for _ in range(2):  # it stays dead
            with pytest.raises(DiedError, match=f"ended by signal {number}") as raised:
                worker.ask("round")
            assert raised.type is kind


def test_who_stops_the_run_and_its_workers_at_once_loses_no_row(workers, tmp_path):
    """As a container's end or a scheduler's does."""
    asked = []

    def before(worker, do, label):
        if (label, do) == ("4+13", "round"):
            asked.append(do)
            raise KilledError("ended by signal 9")

    workers.before, how = before, {"output": tmp_path / "run", "progress": lambda _: None}
    with pytest.raises(Interrupted, match="1 of 3 parts are done"):
        sinkctl.bench(recipe_of(), stop=lambda: bool(asked), **how)
    workers.before = lambda *_: None
    result = sinkctl.bench(recipe_of(), resume=True, **how)
    assert (len(result.bench.rows), result.bench.refused) == (3, [])


@pytest.mark.parametrize("do", ["open", "round"])
@pytest.mark.parametrize("error", [ModelError, UnforeseenError, SinkctlError, DiedError, KilledError])
def test_whatever_another_version_meets_is_noted(error, do, workers):
    def before(worker, asked, label):
        if worker.name and (label, asked) == ("4+12", do):
            raise error("no such attention yet")

    workers.before = before
    result = sinkctl.bench(recipe_of([12, 13]), against="main", progress=lambda _: None)
    assert [note for note in result.notes if "did not run" in note] == [
        "stream 4+12: the other version did not run: no such attention yet"
    ]
    assert (len(result.bench.rows), result.bench.refused) == (2, [])
    assert [change.name for change in result.bench.changes] == ["stream.4+13.tokens_per_s"]


@pytest.mark.parametrize("error", [ModelError, KilledError])
def test_what_this_version_cannot_repeat_leaves_the_other_version_without_it_too(error, workers):
    """In the second of two processes, where memory is at the edge."""

    def before(worker, do, label):
        if not worker.name and workers.started.index(worker) >= 2 and (label, do) == ("4+12", "open"):
            raise error("out of memory")

    workers.before = before
    result = sinkctl.bench(recipe_of([12, 13], processes=2), against="main", progress=lambda _: None)
    assert [(each.label, each.why) for each in result.bench.refused] == [("4+12", "out of memory")]
    assert [row.label for row in result.bench.rows] == ["4+13"]
    assert [change.name for change in result.bench.changes] == ["stream.4+13.tokens_per_s"]
