"""A row of `sinkctl bench` that a model refuses: it says so, and leaves the others theirs."""

import io
import json
import re
import weakref
from itertools import count

import pytest
import torch
from junitparser import JUnitXml, Skipped

import sinkctl
from sinkctl.errors import ModelError, SinkctlError, TextError, UnmeasuredError, UsageError, of_exit
from sinkctl.model.probe import LearnedPositions
from sinkctl.recipe.load import validate
from sinkctl.report.benched import tables
from sinkctl.report.junit import junit
from sinkctl.result.bench import OURS
from sinkctl.result.compare import judge, parse_gate
from sinkctl.tasks.bench.cases import decode, quality, stream
from sinkctl.tasks.bench.driver import HERE, Collected, Driver
from sinkctl.tasks.bench.session import Session
from sinkctl.tasks.bench.way import Group, Way
from sinkctl.tasks.bench.worker import serve
from sinkctl.tasks.stream.scoring import StreamRun

MASSIVE = "quality: kv_keep predicted: no activation of demo is massive"
QUALITY = {
    "kind": "quality", "sinks": [1], "caches": [64], "limit": 200, "peers": ["dense"], "kv": ["full", "2bit"],
    "kv_keep": ["predicted", "none"], "kv_recent": 0, "beside_full": True,
}  # fmt: skip
RETRIEVAL = {
    "kind": "retrieval", "caches": ["1+63"], "lines": 6, "every": 3, "back": [1], "kv": ["2bit"], "kv_recent": 0,
    "kv_keep": ["predicted", "none"],
}  # fmt: skip
ALONE = {"kind": "quality", "name": "alone", "sinks": [1], "caches": [64], "kv": ["2bit"], "kv_keep": ["predicted"],
         "kv_recent": 0, "peers": [], "limit": 200}  # fmt: skip


def recipe_of(*cases: dict, **more):
    timing = {"rounds": 1, "warmup": 0, "seconds": 1e-4, "threads": 1}
    model = {"device": "cpu", "dtype": "float32"}
    return validate({"task": "bench", "model": model, "timing": timing, "cases": list(cases)} | more)


@pytest.fixture
def found(in_this_process):
    """Predicted tokens of a model without massive activations, among what it can do."""
    fail_on = ["quality.perplexity<=1e9", "retrieval.exact_match>=0", "quality.dense.dense.perplexity<=1e9"]
    recipe = recipe_of(QUALITY, RETRIEVAL, ALONE, fail_on=fail_on)
    return sinkctl.bench(recipe, progress=lambda _: None)


def test_what_a_model_refuses_says_so_in_its_row_and_the_others_are_measured(found):
    assert {row.label for row in found.bench.rows if row.metric == "perplexity"} == {
        "1+63",
        "1+63,2bit,keep=none",
        "dense",
    }
    assert {row.label for row in found.bench.rows if row.metric == "kl"} == {"1+63", "1+63,2bit,keep=none"}
    refused = {(each.case, each.label, each.way): each.why for each in found.bench.refused}
    assert list(refused) == [
        ("quality", "1+63,2bit,keep=predicted", OURS), ("retrieval", "1+63,2bit,keep=predicted,back=1", OURS),
        ("alone", "1+63,2bit,keep=predicted", OURS),
    ]  # fmt: skip
    assert refused["quality", "1+63,2bit,keep=predicted", OURS].startswith(MASSIVE)
    shown = dict(tables(found.bench))
    assert ["1, 2bit, predicted kept", "n/a"] in shown["Quality"].rows
    assert ["1+63, 2bit, predicted kept", "n/a"] in shown["Retrieval"].rows
    assert [row[3] for row in shown["Not measured"].rows] == ["(1)", "(2)", "(3)"]
    assert shown["Not measured"].legend[0].startswith(f"(1) {MASSIVE}")
    skipped = [case for suite in JUnitXml.fromstring(junit(found).encode()) for case in suite
               if any(isinstance(one, Skipped) for one in case.result)]  # fmt: skip
    assert [case.name for case in skipped] == [f"{each.case} {each.label}: measured" for each in found.bench.refused]


def test_a_gate_on_a_refused_row_is_unanswered_and_others_hold(found):
    asked, retrieval, dense = map(parse_gate, found.recipe["fail_on"])
    with pytest.raises(UnmeasuredError, match=f"^quality 1\\+63,2bit,keep=predicted could not be measured: {MASSIVE}"):
        judge(found, [asked]).check()
    assert judge(found, [retrieval]).unanswered
    judge(found, [dense]).check()


def test_memory_takes_what_grows_alone_and_is_asked_once(in_this_process, monkeypatch):
    """Nor does what is seen beside everything kept, which needs that, take the rest of a row with it."""
    really, asked = StreamRun._losses, []

    def losses(run, piece):
        asked.append(list(run.scorers))
        if "dense" in asked[-1]:
            raise torch.OutOfMemoryError("no")
        return really(run, piece)

    def beside(*_):
        asked.append("beside")
        raise torch.OutOfMemoryError("no")

    monkeypatch.setattr(StreamRun, "_losses", losses)
    monkeypatch.setattr(quality, "beside_full", beside)
    case = {"kind": "quality", "sinks": [0, 1], "caches": [64], "limit": 100, "beside_full": True}
    result = sinkctl.bench(recipe_of(case), progress=lambda _: None)
    assert asked == [["0+64", "1+63", "dense"], ["0+64", "1+63"], "beside"]
    assert [row.name.removeprefix("quality.") for row in result.bench.rows] == [
        "0+64.perplexity", "0+64.bits_per_byte", "1+63.perplexity", "1+63.bits_per_byte",
    ]  # fmt: skip
    assert [(each.label, each.why) for each in result.bench.refused] == [("dense", "quality: cpu is out of memory")]
    assert result.choices["quality 1+63: beside everything kept"] == "left out: cpu is out of memory"


def breaking(after: int, error: Exception) -> Way:
    """A way that runs so many times, and then never again; three of them warm it up."""
    calls = count(1)

    def run():
        if next(calls) > after:
            raise error

    return Way(run, once=True)


@pytest.mark.parametrize("processes", [1, 2])
def test_what_fails_in_a_timed_round_is_its_row_s_answer_and_the_others_are_measured(
    processes, in_this_process, monkeypatch
):  # fmt: skip
    """Ours at 4+13, a peer at 4+14; memory that the failed one held is free for the others."""
    held, seen, fine = [], [], Way(lambda: None, once=True)

    def group(case, subject, size):
        calls, tensor = count(1), torch.zeros(1)
        held.append(weakref.ref(tensor))

        def ours():
            if next(calls) > 4:
                raise torch.OutOfMemoryError(f"no {tensor}")

        def stock():
            seen.append(held[-1]() is None)

        ways = {OURS: Way(ours, once=True), "stock": Way(stock, once=True)}
        if size["window"] == 13:
            return Group("tokens_per_s", ways, "stock")
        peer = breaking(4, ValueError("no such\nshape")) if size["window"] == 14 else fine
        return Group("tokens_per_s", {OURS: fine, "stock": peer, "published": fine}, "stock")

    monkeypatch.setattr(stream, "group", group)
    case, why = {"kind": "stream", "windows": [12, 13, 14]}, "stream at 4+13: cpu is out of memory"
    timing = {"rounds": 4, "warmup": 0, "seconds": 1e-4, "processes": processes}
    result = sinkctl.bench(recipe_of(case, shape="tiny", timing=timing), progress=lambda _: None)
    rows = {(row.label, row.way): [len(of_process) for of_process in row.samples] for row in result.bench.rows}
    assert rows == {
        ("4+12", OURS): [4] * processes, ("4+12", "stock"): [4] * processes, ("4+12", "published"): [4] * processes,
        ("4+13", "stock"): [4] * processes, ("4+14", OURS): [4] * processes, ("4+14", "published"): [4] * processes,
    }  # fmt: skip
    assert seen[-2:] == [True, True]
    assert [(each.label, each.way, each.why) for each in result.bench.refused] == [("4+13", OURS, why)]
    assert result.notes == ["stream 4+14: stock did not run: ValueError: no such"]
    assert ["4+13", OURS, "n/a"] in [row[:3] for row in dict(tables(result.bench))["stream"].rows]
    assert [row.yardstick for row in result.bench.rows if row.way == OURS] == ["stock", None]
    with pytest.raises(UnmeasuredError, match=re.escape(f"stream 4+13 could not be measured: {why}")):
        judge(result, [parse_gate("stream.tokens_per_s>=0")]).check()
    with pytest.raises(UnmeasuredError, match=r"^stream.4\+14.stock.tokens_per_s could not be measured"):
        judge(result, [parse_gate("stream.4+14.stock.tokens_per_s>=0")]).check()


def test_what_is_timed_after_another_way_failed_does_not_allocate_within_its_sample(in_this_process, monkeypatch):
    """The memory that torch caches went with the failed way."""
    ran = []
    ways = {name: Way(lambda name=name: ran.append(name), once=True) for name in ("stock", "published")}
    failing = breaking(4, torch.OutOfMemoryError("no"))
    ways = {"stock": ways["stock"], OURS: failing, "published": ways["published"]}
    monkeypatch.setattr(stream, "group", lambda *_: Group("tokens_per_s", ways))
    recipe = recipe_of({"kind": "stream", "windows": [12]}, shape="tiny").model_dump(mode="json")
    session, timed = Session(recipe), []
    session.open(0, "4+12")
    for _ in range(4):
        ran.clear()
        session.round()
        timed.append(list(ran))
    assert timed == [
        ["stock", "published"], ["published", "stock", "stock"], ["stock", "published", "published"],
        ["published", "stock"],
    ]  # fmt: skip


@pytest.mark.parametrize("when", ["built", "timed"])
def test_a_failed_gate_stays_failed_where_it_cannot_be_measured_again(when, in_this_process, monkeypatch, tmp_path):
    case, times = (
        {"kind": "stream", "windows": [12], "chunks": [8], "peers": []},
        {"timing": {"rounds": 5, "warmup": 0, "seconds": 1e-4}},
    )
    before = sinkctl.bench(recipe_of(case, shape="tiny", **times), progress=lambda _: None)
    (row,) = before.bench.rows
    faster = row.model_copy(
        update={"samples": [[1e9 * x for x in one] for one in row.samples], "low": 1e15, "high": 2e15}
    )
    saved = before.model_copy(update={"bench": before.bench.model_copy(update={"rows": [faster]})})
    (tmp_path / "base.json").write_text(saved.model_dump_json())
    really, calls = stream.group, []

    def group(*given):
        calls.append(given)
        if len(calls) > 1 and when == "timed":
            return Group("tokens_per_s", {OURS: breaking(4, ModelError("memory is gone"))})
        if len(calls) > 1:
            raise ModelError("memory is gone")
        return really(*given)

    monkeypatch.setattr(stream, "group", group)
    recipe = recipe_of(case, shape="tiny", fail_on=["stream.tokens_per_s:10%"], **times)
    again = sinkctl.bench(recipe, baseline=tmp_path / "base.json", progress=lambda _: None)
    (change,) = again.bench.changes
    assert (len(calls), change.failed, change.reran) == (2, True, False)
    assert again.notes == ["stream 4+12: could not be measured once more: memory is gone"]


@pytest.mark.parametrize(("breaks", "when"), [("published", "again"), (OURS, "first"), ("stock", "again")])
def test_a_gate_is_judged_twice_where_its_ways_ran_and_what_did_not_run_at_first_is_not_heard_later(
    breaks, when, in_this_process, monkeypatch, tmp_path
):  # fmt: skip
    """Ours, beside stock; the gates are on both, all a million times slower than the baseline, and one way breaks."""
    fine, built = Way(lambda: None, once=True), []

    def group(*_):
        built.append({OURS: fine, "stock": fine, "published": fine})
        if (when == "first") == (len(built) == 1) and measuring:
            built[-1][breaks] = breaking(4, torch.OutOfMemoryError("no"))
        return Group("tokens_per_s", built[-1], "stock")

    measuring = False
    monkeypatch.setattr(stream, "group", group)
    gates = ["stream.tokens_per_s:10%", "stream.4+12.stock.tokens_per_s:10%"]
    timing = {"timing": {"rounds": 5, "warmup": 0, "seconds": 1e-4}}
    recipe = recipe_of({"kind": "stream", "windows": [12]}, shape="tiny", fail_on=gates, **timing)
    before = sinkctl.bench(recipe, progress=lambda _: None)
    rows = [row.model_copy(update={
        "yardstick": None, "samples": [[1e9 * x for x in one] for one in row.samples], "low": 1e15, "high": 2e15,
    }) for row in before.bench.rows]  # fmt: skip
    saved = before.model_copy(update={"bench": before.bench.model_copy(update={"rows": rows})})
    (tmp_path / "base.json").write_text(saved.model_dump_json())
    measuring = built.clear() is None
    result = sinkctl.bench(recipe, baseline=tmp_path / "base.json", progress=lambda _: None)
    changes = {change.name: (change.failed, change.reran) for change in result.bench.changes}
    ours, stock = "stream.4+12.tokens_per_s", "stream.4+12.stock.tokens_per_s"
    assert len(built) == 2
    if breaks == OURS:
        assert (ours in changes, changes[stock]) == (False, (True, True))
        assert judge(result, [parse_gate(gates[0])]).unanswered
    else:
        assert (changes[ours], changes[stock]) == ((True, breaks == "published"),) * 2
        once = "stream 4+12: could not be measured once more: out of memory"
        assert result.notes == (
            ["stream 4+12: published did not run: out of memory"] if breaks == "published" else [once]
        )


def test_where_every_row_is_refused_the_run_is(in_this_process):
    with pytest.raises(ModelError, match="alone: kv_keep predicted: no activation of demo is massive"):
        sinkctl.bench(recipe_of(ALONE), progress=lambda _: None)


@pytest.mark.parametrize("error", [ModelError("no"), UsageError("no"), TextError("no"), torch.OutOfMemoryError("no")])
def test_a_size_that_does_not_run_leaves_the_others_in_every_process_and_version(error, in_this_process, monkeypatch):
    """The second of three sizes, here in one version alone."""
    built, lanes = [], iter(["here", "there"] * 9)

    def group(case, subject, size):
        lane = next(lanes)
        built.append((lane, size["window"]))
        if size["window"] == 13 and lane == "there":
            raise error
        return Group("tokens_per_s", {OURS: Way(lambda: None)})

    monkeypatch.setattr(stream, "group", group)
    case = {"kind": "stream", "windows": [12, 13, 14], "peers": []}
    taking = Driver(recipe_of(case, shape="tiny"), {HERE: "a", "there": "b"}, progress=lambda _: None, stop=bool)
    both = taking.collect(Collected(), taking.keys()).found
    assert built == [(lane, window) for window in (12, 13, 14) for lane in ("here", "there")]
    assert all(found.seconds for found in both[HERE].values())
    assert [bool(found.seconds) for found in both["there"].values()] == [True, False, True]
    again = Collected.load(Collected(both, {}, set()).dump()).found["there"][taking.keys()[1]]
    assert again.opened["refused"]["why"] in ("no", "stream at 4+13: cpu is out of memory")


def test_a_kind_of_refusal_that_only_the_worker_knows_is_one(monkeypatch):
    def group(*_):
        raise LearnedPositions("positions are learned")

    monkeypatch.setattr(decode, "group", group)
    recipe = recipe_of({"kind": "decode"}, shape="tiny").model_dump(mode="json")
    asked = [{"do": "start", "recipe": recipe}, {"do": "open", "number": 0, "label": "4+252"}]
    serve([json.dumps(each) for each in asked], answers := io.StringIO())
    assert json.loads(answers.getvalue().splitlines()[-1]) == {"error": "positions are learned", "kind": "ModelError"}


def test_a_fault_is_no_refusal(in_this_process, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(decode, "group", broken)
    with pytest.raises(ZeroDivisionError):
        sinkctl.bench(recipe_of({"kind": "decode"}, shape="tiny"), progress=lambda _: None)
    assert [of_exit(code) for code in (2, 3, -9)] == [ModelError] * 3  # the last one for memory
    assert [of_exit(code) for code in (70, -11, -15)] == [SinkctlError] * 3
