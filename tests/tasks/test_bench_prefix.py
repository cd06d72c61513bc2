"""Tokens in front of a text: the numbers of `stream` with a BOS there, and those of a model made massive by hand."""

import numpy as np
import pytest
import torch

import sinkctl as product
from sinkctl import api
from sinkctl.errors import ModelError, TextError, UsageError
from sinkctl.recipe.bench import PrefixCase
from sinkctl.recipe.load import validate
from sinkctl.recipe.sizes import sizes
from sinkctl.report.prefixes import prefix_table
from sinkctl.result.bench import BenchDetail, Machine, Row
from sinkctl.tasks.bench.cases import prefix
from sinkctl.tasks.bench.prefixes import Prefixes
from sinkctl.tasks.bench.subject import Subject

CASE = PrefixCase(limit=400, cache=64, kv=("4bit", "2bit"), samples=3, length=64, greedy=1, search=100)


def of(loaded, case=CASE) -> Subject:
    subject = Subject(validate({"task": "bench", "cases": [case.model_dump()]}))
    subject.loaded = loaded
    return subject


def rows(loaded, case=CASE) -> dict[str, dict[str, Row]]:
    """By front and metric, as the driver keeps them."""
    found, subject = {}, of(loaded, case)
    for label, size in sizes(case).items():
        for each in prefix.group(case, subject, size).readings:
            told = dict(metric=each.metric, unit=each.unit, better=each.better, detail=each.detail)
            row = Row(case=case.label, label=label, size=size, way=each.way, samples=[[each.value]], **told)
            found.setdefault(label, {})[each.metric] = row
    return found


def test_a_front_of_bos_is_the_stream_with_bos_kept_in_full(demo):
    found = rows(demo)
    assert list(found) == ["nothing", "bos", "measured", "frequent", "greedy"]
    assert list(found["measured"]) == list(found["frequent"]) == ["front_tokens"], "nothing of this model is massive"
    assert found["greedy"]["perplexity"].detail["front"] == found["bos"]["perplexity"].detail["front"] == ["<|bos|>"]
    for front, kept, bos in (("bos", 1, "always"), ("nothing", 4, "never")):
        plain = {"kind": "sink_window", "sinks": kept, "window": 64 - kept}
        rounded = plain | {"precision": {"bits": 2, "recent": 0, "keep": f"first:{kept}"}}
        nll = api.stream(model=demo, policies=[plain, rounded], bos=bos, limit=400, progress=lambda _: None).nll
        full, few = (losses[-399:].astype(np.float64) for losses in nll.values())
        assert found[front]["perplexity"].value == pytest.approx(np.exp(full.mean()), rel=1e-5)
        assert found[front]["added_2bit"].value == pytest.approx(100 * np.expm1((few - full).mean()), abs=0.05)
    table = prefix_table(detail([row for own in found.values() for row in own.values()]))
    assert [row[:2] for row in table.rows] == [
        ["nothing", "–"], ["bos", "“<|bos|>”"], ["measured", "none: nothing but BOS, if that, is massive"],
        ["frequent", "none: nothing is as measured that it would be the control of"], ["greedy", "“<|bos|>”"],
    ]  # fmt: skip
    assert table.columns[2:5] == ["perplexity", "4bit adds", "2bit adds"]


def test_what_massive_activations_tell_is_put_in_front_and_counted_past_it():
    """One token of the built-in model is massive wherever it stands, by its embedding."""
    loaded = product.load()
    prefixes = Prefixes(CASE, loaded, lambda *_: None)
    samples = torch.tensor(prefixes._samples)
    token = next(t for t in samples.flatten().tolist() if int((samples == t).sum()) in (4, 5, 6))
    loaded.model.lm_head.weight = torch.nn.Parameter(loaded.model.lm_head.weight.clone())  # tied: the head stays
    with torch.no_grad():
        loaded.model.get_input_embeddings().weight[token, 7] = 3e3
    times = int((samples == token).sum())
    found = rows(loaded)
    spelt = loaded.tokenizer.decode([token])
    assert prefixes.measured == [token, loaded.bos_id]
    assert found["measured"]["perplexity"].detail["front"] == [spelt, "<|bos|>"]
    assert len(prefixes.frequent) == 2
    assert token not in prefixes.frequent
    for front in ("bos", "measured", "frequent"):
        assert found[front]["massive_places"].value == pytest.approx(times / len(samples))
        assert found[front]["largest_activation"].value == pytest.approx(3e3, rel=0.02)


def test_what_cannot_be_is_one_line(demo):
    with pytest.raises(TextError, match=r"prefix: the text has .* give a longer one, or a smaller limit or length"):
        Prefixes(CASE.model_copy(update={"limit": 10**7}), demo, lambda *_: None)
    with pytest.raises(UsageError, match=r"^prefix: kv 5bit: no such precision"):
        sizes(CASE.model_copy(update={"kv": ("5bit",)}))
    with pytest.raises(UsageError, match=r"^prefix: kv full: rounds nothing"):
        sizes(CASE.model_copy(update={"kv": ("full",)}))
    untold = product.load()
    untold.tokenizer = None
    with pytest.raises(ModelError, match="has no tokenizer, so no text to put tokens before"):
        Prefixes(CASE, untold, lambda *_: None)


def detail(found: list[Row]) -> BenchDetail:
    machine = Machine(device="cpu", threads=1, dtype="float32", model="demo", versions={})
    return BenchDetail(suite="prefixes", machine=machine, rates=[], rows=found)
