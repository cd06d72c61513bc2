"""The machinery of `sinkctl bench`: turns, processes, floors, resumption."""

import json
import time
from pathlib import Path

import pytest
import torch

import sinkctl
from sinkctl.errors import BaselineError, Interrupted, SinkctlError, UnforeseenError
from sinkctl.recipe.load import load, validate
from sinkctl.recipe.named import built_in
from sinkctl.recipe.sizes import MEASURED, measured, sizes
from sinkctl.result.bench import Rate, Work
from sinkctl.tasks.bench import driver
from sinkctl.tasks.bench.cases import processes, stream
from sinkctl.tasks.bench.clock import Clock
from sinkctl.tasks.bench.driver import HERE, Collected, Driver, Found, Key
from sinkctl.tasks.bench.outcome import floor_seconds, rows_of
from sinkctl.tasks.bench.pace import Pace
from sinkctl.tasks.bench.process import DiedError, Worker
from sinkctl.tasks.bench.session import Session
from sinkctl.tasks.bench.way import Group, Way

CPU = torch.device("cpu")


def recipe_of(*cases: dict, **timing):
    timing = {"rounds": 2, "warmup": 0, "seconds": 1e-4, "threads": 1} | timing
    model = {"device": "cpu", "dtype": "float32"}
    return validate({"task": "bench", "shape": "tiny", "model": model, "timing": timing, "cases": list(cases)})


SMALL = {"kind": "stream", "windows": [12], "chunks": [8], "peers": ["stock"]}


def test_a_sample_repeats_a_call_until_it_is_long_enough():
    calls = []
    way = Way(lambda: (calls.append(1), time.sleep(0.002)))
    clock = Clock(CPU, seconds=0.02)
    clock.warm("sleep", way, rounds=1)
    calls.clear()
    seconds = clock.sample("sleep", way)
    assert 2 <= len(calls) <= 10
    assert seconds >= 0.002
    once = Way(way.run, once=True)
    clock.warm("once", once, rounds=3)
    calls.clear()
    clock.sample("once", once)
    assert len(calls) == 1


def test_what_is_left_takes_as_long_as_the_same_took_before():
    clock = [0.0]
    pace = Pace(["a", "b", "a", "b"], lambda: clock[0])
    pace.begin()
    assert pace.seconds_left is None
    clock[0] = 10.0
    pace.end()
    assert pace.seconds_left == 10 + 10 + 10, "b as long as a, as far as is known"
    pace.begin()
    clock[0] = 14.0
    assert pace.seconds_left == 6 + 10 + 10
    clock[0] = 40.0
    assert pace.seconds_left == 0 + 10 + 10
    pace.end()
    assert pace.seconds_left == 10 + 30
    pace.skip(["b"])
    assert pace.seconds_left == 10


def test_the_floor_is_the_slower_of_products_and_bytes():
    rates = [
        Rate(name="matmul", samples=[1e12, 2e12, 4e12]), Rate(name="copy", samples=[1e9]),
        Rate(name="read", samples=[2e9]),
    ]  # fmt: skip
    assert floor_seconds(Work(flops=4e12, bytes=1e9), rates) == (2.0, "matmul")
    assert floor_seconds(Work(flops=4e12, bytes=3e9), rates) == (3.0, "copy")
    assert floor_seconds(Work(flops=4e12, read=6e9), rates) == (3.0, "read")
    assert floor_seconds(Work(count=5), rates) == (None, None)


def test_rows_say_rates_and_floors_in_the_unit_of_the_metric():
    recipe = recipe_of(SMALL)
    opened = {
        "size": {"window": 12}, "metric": "tokens_per_s", "yardstick": "stock", "readings": [],
        "ways": {"sinkctl": {"count": 100, "flops": 1e9, "bytes": None}}, "added": {"sinkctl": 7},
        "other": {"sinkctl": None},
    }  # fmt: skip
    seconds = {"sinkctl": [[0.5, 0.25], [0.5, 0.5]]}
    (row,) = rows_of(recipe, Key(0, "4+12"), opened, seconds, [Rate(name="matmul", samples=[1e10])])
    assert row.name == "stream.4+12.tokens_per_s"
    assert (row.samples, row.value) == ([[200.0, 400.0], [200.0, 200.0]], 200.0)
    assert (row.floor, row.share, row.floor_of) == (1000.0, 0.2, "matmul")
    assert row.low <= row.value <= row.high


def test_ways_take_turns_and_a_peer_that_cannot_run_is_left_out(monkeypatch):
    ran = []

    def broken():
        raise ValueError("no such attention")

    def group(case, subject, size):
        ways = {name: Way(lambda name=name: ran.append(name), once=True) for name in ("sinkctl", "stock")}
        return Group(metric="ms", ways=ways | {"published": Way(broken)}, yardstick="stock")

    monkeypatch.setattr(stream, "group", group)
    session = Session(recipe_of(SMALL).model_dump(mode="json"))
    opened = session.open(0, "4+12")
    assert list(opened["ways"]) == ["sinkctl", "stock"]
    assert opened["failed"] == {"published": "ValueError: no such attention"}
    ran.clear()
    session.round(), session.round()
    assert ran == ["sinkctl", "stock", "stock", "sinkctl"]
    monkeypatch.setattr(stream, "group", lambda *_: Group(ways={"sinkctl": Way(broken)}))
    with pytest.raises(ValueError, match="no such attention"):
        session.open(0, "4+12")


class Recorded:
    """A worker that says what it was asked."""

    asked: list = []

    def __init__(self, recipe, *, python, name, told):
        self.asked.append((name, "begun"))
        self.name = name

    def ask(self, do, **request):
        self.asked.append((self.name, do, *request.values()))
        timed = {"sinkctl": Work().model_dump()}
        answers = {
            "open": {
                "ways": timed if request.get("number") != 1 else {},
                "yardstick": None,
                "failed": {},
                "metric": "ms",
                "readings": [],
            },
            "facts": {"rates": []},
            "round": {"sinkctl": float(len(self.asked))},
        }
        return answers.get(do)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.fixture
def asked(monkeypatch):
    monkeypatch.setattr(driver, "Worker", Recorded)
    monkeypatch.setattr(Recorded, "asked", [])
    return Recorded.asked


MEMORY = {"kind": "memory", "window": 12, "lengths": [64, 128]}


@pytest.mark.parametrize("name", [name for name in built_in() if name.startswith("bench/")])
def test_a_worker_is_told_what_differs_from_defaults_which_says_it_all(asked, name):
    recipe = load(built_in()[name])
    told = Driver(recipe, {}, progress=lambda _: None, stop=lambda: False)._plain
    assert validate(json.loads(json.dumps(told))) == recipe
    pairs = zip(told["cases"], recipe.cases, strict=True)
    assert all(set(case) <= set(type(kept).model_fields) for case, kept in pairs)


def test_versions_take_turns_within_a_round(asked):
    recipe = recipe_of(SMALL, rounds=3)
    taking = Driver(recipe, {HERE: "a", "there": "b"}, progress=lambda _: None, stop=lambda: False)
    taking.collect(Collected(), taking.keys())
    assert [name for name, do, *_ in asked if do == "round"] == ["", "there", "there", "", "", "there"]


def test_what_is_not_timed_is_measured_once_and_memory_in_a_process_of_its_own(asked):
    recipe = recipe_of(SMALL, MEMORY, processes=2)
    taking = Driver(recipe, {HERE: "a"}, progress=lambda _: None, stop=lambda: False)
    found = taking.collect(Collected(), taking.keys()).found[HERE]
    assert sum(do == "begun" for _, do, *_ in asked) == 4
    assert [request for _, do, *request in asked if do == "open"] == [[1, "64"], [1, "128"], [0, "4+12"], [0, "4+12"]]
    assert [len(process) for process in found[Key(0, "4+12")].seconds["sinkctl"]] == [2, 2]


def test_a_peer_that_ran_in_one_process_alone_is_left_out(asked):
    other = {"sinkctl": Work().model_dump(), "stock": Work().model_dump()}
    both = Found({"ways": dict(other), "yardstick": "stock", "failed": {}}, {"sinkctl": [[1.0]], "stock": [[2.0]]})
    alone = Found(
        {"ways": {"sinkctl": Work().model_dump()}, "yardstick": None, "failed": {"stock": "out of memory"}},
        {"sinkctl": [[3.0]]},
    )
    both.join(alone, "stream 4+12")
    assert (both.seconds, both.opened["yardstick"]) == ({"sinkctl": [[1.0], [3.0]]}, None)
    assert both.opened["failed"] == {"stock": "out of memory"}
    ways = {"sinkctl": Work(count=2).model_dump()}
    wider = Found({"ways": ways, "yardstick": None, "failed": {}}, {"sinkctl": [[1.0]]})
    with pytest.raises(SinkctlError, match="does other work in another process"):
        both.join(wider, "stream 4+12")


def test_a_stopped_run_goes_on_where_it_was(asked):
    recipe, kept = recipe_of(SMALL, MEMORY), []
    stopped = Driver(
        recipe, {HERE: "a"}, progress=lambda _: None, stop=lambda: bool(kept),
        save=lambda now: kept.append(json.dumps(now.dump())),
    )  # fmt: skip
    with pytest.raises(Interrupted):
        stopped.collect(Collected(), stopped.keys())
    asked.clear()
    going_on = Driver(recipe, {HERE: "a"}, progress=lambda _: None, stop=lambda: False)
    found = going_on.collect(Collected.load(json.loads(kept[-1])), going_on.keys()).found[HERE]
    assert [request for _, do, *request in asked if do == "open"] == [[1, "128"], [0, "4+12"]]
    assert set(found) == set(going_on.keys())


def test_a_worker_answers_says_what_is_wrong_and_is_missed_when_it_dies():
    recipe = {"task": "bench", "shape": "tiny", "model": {"device": "cpu"}, "cases": [SMALL]}  # the rest by default
    recipe["timing"] = {"seconds": 1e-3, "warmup": 0}
    with Worker(recipe, name="here") as worker:
        assert worker.ask("open", number=0, label="4+12")["yardstick"] == "stock"
        assert set(worker.ask("round")) == {"sinkctl", "stock"}
        with pytest.raises(UnforeseenError, match="the process that measures here: KeyError: 'none'"):
            worker.ask("open", number=0, label="none")
        worker._process.kill()
        worker._process.wait()  # what is asked then cannot be sent, nor flushed when the worker is ended
        with pytest.raises(DiedError, match="ended by signal 9"):
            worker.ask("round")


@pytest.fixture
def saved(in_this_process, tmp_path):
    """A run and its folder."""
    result = sinkctl.bench(recipe_of(SMALL, MEMORY, rounds=5), output=tmp_path / "run", progress=lambda _: None)
    return result, tmp_path / "run"


def test_a_run_holds_every_case_and_keeps_what_others_read(saved):
    result, folder = saved
    names = [measurement.name for measurement in result.measurements]
    assert names[:4] == [
        "stream.4+12.tokens_per_s", "stream.4+12.added_memory", "stream.4+12.stock.tokens_per_s",
        "stream.4+12.stock.added_memory",
    ]  # fmt: skip
    assert {"memory.64.peak_memory", "memory.128.peak_memory"} <= set(names)
    assert {rate.name for rate in result.bench.rates} == {"matmul", "copy", "read"}
    ours, stock, *_ = result.bench.rows
    assert (ours.floor_of, stock.floor_of) == ("matmul", "matmul")
    assert 0 < ours.share < 1
    assert sorted(p.name for p in folder.iterdir()) == [
        "benchmark-bigger.json", "benchmark-smaller.json", "env.json", "junit.xml", "recipe.yaml", "report.html",
        "result.json", "summary.md",
    ]  # fmt: skip


def test_a_baseline_of_another_machine_is_refused_before_anything_is_measured(saved, tmp_path):
    _, folder = saved
    data = json.loads((folder / "result.json").read_text())
    data["bench"]["machine"]["device"] = "another processor"
    other = tmp_path / "other.json"
    other.write_text(json.dumps(data))
    began = []
    with pytest.raises(BaselineError, match="another processor"):
        sinkctl.bench(recipe_of(SMALL), baseline=other, progress=began.append)
    assert not [now for now in began if "round" in now.what]


@pytest.mark.parametrize(("anew", "percent", "failed"), [(1.0, 99, True), (0.01, 0, False)])
def test_what_fails_is_measured_once_more(anew, percent, failed, saved, tmp_path, in_this_process, monkeypatch):
    """A clock says 1 s a call, and of ours 0.01 s for the baseline, 1 s now, and `anew` when asked once more."""
    _, folder = saved
    data = json.loads((folder / "result.json").read_text())
    for row in data["bench"]["rows"]:
        if row["metric"] == "tokens_per_s":
            row["samples"] = [[row["work"]["count"] / (0.01 if row["way"] == "sinkctl" else 1.0)] * 5]
    faster = tmp_path / "faster.json"
    faster.write_text(json.dumps(data))
    seconds = [1.0]
    monkeypatch.setattr(Clock, "sample", lambda clock, name, way: seconds[-1] if name == "sinkctl" else 1.0)
    recipe = recipe_of(SMALL, rounds=5).model_copy(update={"fail_on": ("stream.tokens_per_s:50%",)})

    def told(now) -> None:
        if now.what.startswith("once more: "):
            seconds.append(anew)

    found = sinkctl.bench(recipe, baseline=faster, progress=told)
    (gated,) = [change for change in found.bench.changes if change.limit is not None]
    assert (gated.failed, gated.reran) == (failed, True)
    assert gated.first_percent == pytest.approx(99)
    assert gated.percent == pytest.approx(percent)
    assert len(seconds) > 1


def test_a_resumed_run_is_held_against_what_it_began_with(saved, tmp_path):
    _, folder = saved
    recipe = recipe_of(SMALL, MEMORY).model_copy(update={"fail_on": ("memory.peak_memory:900%",)})
    asked, output = [], tmp_path / "stopped"
    with pytest.raises(Interrupted, match=r"1 of 3 parts are done; --resume .*stopped goes on"):
        sinkctl.bench(
            recipe, output=output, baseline=folder / "result.json", progress=lambda _: None,
            stop=lambda: len(asked) > 1 or asked.append(1),
        )  # fmt: skip
    found = sinkctl.bench(recipe, output=output, resume=True, progress=lambda _: None)
    assert {change.name for change in found.bench.changes if change.limit} == {
        "memory.64.peak_memory", "memory.128.peak_memory",
    }  # fmt: skip
    with pytest.raises(SinkctlError, match="holds no checkpoint"):
        sinkctl.bench(recipe, output=output, resume=True, progress=lambda _: None)


def test_a_gated_row_that_a_baseline_lacks_is_known_before_anything_is_measured(saved, monkeypatch):
    _, folder = saved
    monkeypatch.setattr(driver.Driver, "collect", None)
    recipe = recipe_of(SMALL | {"windows": [13]}, rounds=5).model_copy(update={"fail_on": ("stream.tokens_per_s:9%",)})
    with pytest.raises(BaselineError, match=r"stream\.4\+13\.tokens_per_s is not in it"):
        sinkctl.bench(recipe, baseline=folder, progress=lambda _: None)


def test_an_absolute_threshold_that_fails_is_in_the_verdict(in_this_process):
    recipe = recipe_of(MEMORY).model_copy(update={"fail_on": ("memory.64.peak_memory<=1",)})
    result = sinkctl.bench(recipe, progress=lambda _: None)
    assert result.verdict[0].startswith("memory.64.peak_memory<=1: memory.64.peak_memory is ")


ELSEWHERE = ("_h200", "startup", "ruler")  # those, what test_bench_startup.py runs, and the `eval` extra's
RUNNABLE = [name for name in built_in() if name.startswith("bench/") and not name.endswith(ELSEWHERE)]


@pytest.mark.parametrize("name", RUNNABLE)
def test_the_built_in_suites_run_at_their_smallest_size(name):
    recipe = load(built_in()[name], ["timing.rounds=1", "timing.warmup=0", "timing.seconds=1e-4", "timing.threads=1"])
    small = {
        "quality": {"limit": 120, "every": 100, "caches": (100,)},
        "retrieval": {"lines": 20},
        "prefix": {"limit": 120, "samples": 2, "length": 64, "cache": 64},
        "train": {"batch": 1},
    }
    cases = tuple(case.model_copy(update=small.get(case.kind, {})) for case in recipe.cases)
    with_text = ("bench/ci", "bench/quality", "bench/prefixes")
    shape = None if name in with_text else "tiny"  # those with the built-in model
    session = Session(recipe.model_copy(update={"cases": cases, "shape": shape}).model_dump(mode="json"))
    for number, case in enumerate(cases):
        label = next(iter(sizes(case)))
        opened = session.open(number, label)
        if case.kind == "processes" and shape is not None:
            assert opened["choices"] == {"1 processes": f"left out: {processes.RANDOM}"}
            continue
        metrics = {opened["metric"]} if opened["ways"] else {reading["metric"] for reading in opened["readings"]}
        assert metrics == set(measured(case) if case.kind in ("quality", "prefix") else MEASURED[case.kind][:1])
        assert not opened["failed"]
        if opened["ways"]:
            assert all(seconds > 0 for seconds in session.round().values())


def test_a_recipe_that_calls_two_cases_the_same_is_refused():
    with pytest.raises(SinkctlError, match="two cases are called 'stream'"):
        recipe_of(SMALL, SMALL)


def test_the_action_runs_a_command_that_exists():
    action = Path(built_in()["bench/ci"]).parent / "github/action.yml"
    import yaml

    told = yaml.safe_load(action.read_text())
    assert {"suite", "model", "baseline", "against", "on-mismatch", "output"} == set(told["inputs"])
    (step,) = told["runs"]["steps"]
    assert set(step["env"]) == {"SUITE", "MODEL", "BASELINE", "AGAINST", "ON_MISMATCH", "OUTPUT"}
    assert "${{" not in step["run"]  # inputs reach the shell as variables, never as code
