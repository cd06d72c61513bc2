"""Benchmark cases that measure, train and call operators: their ways do the same work, and leave the model alone."""

import gc
import itertools
import json
import weakref
from pathlib import Path

import pytest
import torch

from sinkctl.errors import UsageError
from sinkctl.recipe.load import load
from sinkctl.recipe.schema import BenchRecipe
from sinkctl.recipe.sizes import sizes
from sinkctl.result.bench import OURS
from sinkctl.tasks.bench.cases import kernel, measure, processes, train
from sinkctl.tasks.bench.driver import Found, said_of
from sinkctl.tasks.bench.session import Session
from sinkctl.tasks.bench.subject import Subject

SMALL = dict(heads=4, kv_heads=2, width=16, tokens=[40])


def subject_of(case: dict, shape: str | None = "tiny") -> Subject:
    """Of a recipe with this one case; no shape: the demo model."""
    return Subject(BenchRecipe.model_validate(dict(shape=shape, model=dict(device="cpu"), cases=[case])))


def group_of(module, subject: Subject):
    case = subject.recipe.cases[0]
    (size,) = sizes(case).values()
    return module.group(case, subject, size)


def kernel_group(op: str, **settings):
    return group_of(kernel, subject_of(dict(kind="kernel", op=op, **{**SMALL, **settings})))


def test_alpha_of_eager_maps_is_that_of_column_sums():
    subject = subject_of(dict(kind="measure"), shape=None)
    loaded, ids_T = subject.loaded, subject.ids(40)
    modules = [facts.module for facts in loaded.layers(40)]
    tally, _ = measure.measured(loaded, ids_T, activations=False)
    eager = measure.eager_alpha(loaded.model, modules, ids_T[None])
    assert len(eager) == len(tally.rows) == loaded.model.config.num_hidden_layers
    for row, alpha_BHS in zip(tally.rows, eager, strict=True):
        torch.testing.assert_close(row.means["alpha"].value.float(), alpha_BHS[0], rtol=1e-4, atol=1e-5)


def test_a_step_without_a_mechanism_is_the_stock_step():
    subject = subject_of(dict(kind="train", sink="none", batch=3, lengths=[20]))
    before = {name: p.detach().clone() for name, p in subject.loaded.model.named_parameters()}
    running, step = train.ours(subject.recipe.cases[0], subject.loaded, subject.ids(200), 20)
    stock, stock_step = train.stock(subject.loaded, step.packed[0].ids_BT)
    assert step.packed[0].ids_BT.shape == (3, 20)
    for _ in range(2):  # the second sees what the first changed
        assert float(running.step(step)[0]) == pytest.approx(float(stock_step()), rel=1e-6)
    ours = dict(running.plain.named_parameters())
    assert ours.keys() == dict(stock.named_parameters()).keys() == before.keys()
    for name, theirs in stock.named_parameters():
        assert (theirs - before[name]).any(), name
        assert (ours[name] - theirs).norm() <= 1e-3 * (theirs - before[name]).norm(), name
        assert torch.equal(subject.loaded.model.get_parameter(name), before[name]), "the loaded model is not trained"


def test_a_stock_model_that_memory_does_not_hold_leaves_our_step_its_numbers(monkeypatch):
    def stock(*_):
        raise torch.OutOfMemoryError("no")

    monkeypatch.setattr(train, "stock", stock)
    session = Session(subject_of(dict(kind="train", batch=1, lengths=[8], sink="none")).recipe.model_dump(mode="json"))
    opened = session.open(0, "8")
    assert (list(opened["ways"]), opened["failed"]) == ([OURS], {"stock": "out of memory"})


@pytest.mark.parametrize(
    ("module", "case"),
    [
        (measure, dict(kind="measure", lengths=[24], activations=True)),
        (train, dict(kind="train", batch=2, lengths=[24], window=6)),
    ],
)
def test_a_group_leaves_the_model_as_it_was_and_goes_with_all_it_holds(module, case):
    subject = subject_of(case)
    model = subject.loaded.model
    before, attention = {name: x.clone() for name, x in model.state_dict().items()}, model.config._attn_implementation
    group = group_of(module, subject)
    assert (next(iter(group.ways)), group.yardstick) == (OURS, "stock")
    held = None
    for way in group.ways.values():
        way.run()
        way.run()
    if module is train:
        trained = group.ways[OURS].run.func.__self__.plain
        assert all(p.any() for name, p in trained.named_parameters() if name.endswith(".sink.logit")), "begins at 0"
        held = weakref.ref(trained)
        del trained
    del group, way
    gc.collect()
    assert held is None or held() is None
    assert model.config._attn_implementation == attention
    assert not model.training
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


def flat(found) -> list[torch.Tensor]:
    """What every implementation of an operator gives."""
    if hasattr(found, "received_BHS"):  # a log-sum-exp is not known where weights come from elsewhere
        found = found._replace(lse_BHT=found.out_BHTE)
    return [found] if isinstance(found, torch.Tensor) else list(found)


@pytest.mark.parametrize("window", [7, None])
@pytest.mark.parametrize("op", kernel.OPERATORS)
def test_all_implementations_of_an_operator_give_the_same(op, window):
    group = kernel_group(op, window=window)
    names = [name for name in group.ways if name != kernel.STOCK]
    assert names[0] == OURS
    assert group.choices[op].partition(":")[0] not in names, "the selected one, not twice"
    truth = flat(group.ways[OURS].run())
    assert all(x.isfinite().all() for x in truth)
    for name in names[1:]:
        torch.testing.assert_close(flat(group.ways[name].run()), truth, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op", ["stream_attention", "column_sums"])
def test_the_yardstick_gives_the_same_where_nothing_is_hidden_and_there_are_no_sinks(op):
    group = kernel_group(op, window=None, sinks=0)
    found = flat(group.ways[OURS].run())[0]
    torch.testing.assert_close(group.ways[group.yardstick].run(), found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("window", "sinks"), [(7, 4), (None, 0), (100, 2), (1, 0)])
def test_useful_products_are_those_of_visible_pairs(window, sinks):
    band = sum(
        j <= i and (window is None or i - j <= window) for i, j in itertools.product(range(40), range(40))
    )  # fmt: skip
    each = {"stream_attention": 4 * (band + 40 * sinks), "column_sums": 6 * band, "sink_attention": 14 * band}
    for op, pairs in each.items():
        ways = kernel_group(op, window=window, sinks=sinks).ways
        assert ways[OURS].work.flops == pytest.approx(pairs * 4 * 16), op  # heads, width
    assert ways[kernel.STOCK].work.flops == pytest.approx(14 * 4 * 16 * 40 * 41 / 2), "which sees all of the past"


def test_bytes_of_a_decoding_step_are_those_of_the_ring():
    work = kernel_group("decode_attention", sinks=3).ways[OURS].work
    assert work.read == 4 * (2 * 2 * 16 * (40 + 3) + 2 * 4 * 16)
    assert work.flops is None


def test_a_kernel_case_names_what_there_is_none_of():
    with pytest.raises(UsageError, match="no implementation fast; one of reference, tiled"):
        kernel_group("stream_attention", implementations=["fast"])
    with pytest.raises(UsageError, match="4 heads cannot share 3"):
        kernel_group("rotate", kv_heads=3)


def test_only_the_implementations_asked_for_are_beside_the_selected_one(monkeypatch):
    assert list(kernel_group("stream_attention", implementations=["tiled"]).ways) == [OURS, "tiled", kernel.STOCK]
    monkeypatch.setattr(kernel, "MOST", 4 * 4 * 40 * 40 - 1)
    group = kernel_group("stream_attention")
    assert "reference" not in group.ways
    assert "T×T map" in group.choices["stream_attention.reference"]


def test_the_efficiency_of_processes_is_that_of_the_same_round(monkeypatch):
    subject, taken = subject_of(dict(kind="processes", processes=[1, 2], rounds=3, texts=2, tokens=50), shape=None), []
    seconds = {1: iter([10, 20, 12]), 2: iter([6, 10, 8])}

    def run(recipe, count, output, pinned):
        settled = load(recipe)
        assert (settled.text.each, len(settled.text.files), pinned) == ("file", 2, True)
        assert all(Path(name).stat().st_size > 100 for name in settled.text.files)
        taken.append(count)
        output.mkdir()
        rate = {"name": "stream.tokens_per_s", "samples": [1200 / next(seconds[count])]}
        (output / "result.json").write_text(json.dumps({"measurements": [rate]}))

    monkeypatch.setattr(processes, "run", run)
    monkeypatch.setattr(processes, "_cores", lambda: [0, 1])
    case = subject.recipe.cases[0]
    alone, both = (processes.group(case, subject, size).readings for size in sizes(case).values())
    assert taken == [1, 2, 2, 1, 1, 2], "they take turns"
    assert [(reading.metric, reading.value) for reading in alone] == [("tokens_per_s", [120, 60, 100])]
    assert [(reading.metric, reading.value) for reading in both] == [
        ("tokens_per_s", [200, 120, 150]), ("efficiency", pytest.approx([100 * 10 / 12, 100, 75])),
    ]  # fmt: skip
    opened = {"metric": "ms", "ways": {}, "readings": [vars(reading) for reading in both], "failed": {}}
    assert said_of(Found(opened)) == "sinkctl 150 tok/s, sinkctl 83.33 %", "of several rounds the median"
    monkeypatch.setattr(processes, "_cores", lambda: [0])
    assert processes.group(case, subject, {"processes": 2}).choices == {"2 processes": "left out: 1 core here"}
