"""Perplexity and retrieval as benchmarks: the numbers of `stream` and `questions`, in a table and a picture."""

import json
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from sinkctl import api
from sinkctl.cache.policies import SinkWindow
from sinkctl.errors import ModelError, UsageError
from sinkctl.model.attention import attached
from sinkctl.model.load import load
from sinkctl.recipe.bench import QualityCase, RetrievalCase, TasksCase
from sinkctl.recipe.load import validate
from sinkctl.recipe.sizes import kept_in, sizes
from sinkctl.report.draw import inline
from sinkctl.report.quality import beside_table, quality_picture, quality_table, retrieval_table
from sinkctl.report.settings import settings_table
from sinkctl.result.bench import BenchDetail, Machine, Row
from sinkctl.tasks.bench.beside_full import opening
from sinkctl.tasks.bench.cases import quality, retrieval, tasks
from sinkctl.tasks.bench.subject import Subject
from sinkctl.tasks.stream.scorers import scorer_for

CASE = QualityCase(sinks=(0, 1, 4), caches=(64, 2), limit=1500, peers=("dense", "recompute"), every=50)


def subject(case, **settings) -> Subject:
    return Subject(validate({"task": "bench", "cases": [case.model_dump()], "model": {"device": "cpu"}, **settings}))


def rows(case, module, of: Subject) -> list[Row]:
    """All readings of a case, as the driver keeps them."""
    found = []
    for label, size in sizes(case).items():
        for each in module.group(case, of, size).readings:
            told = dict(metric=each.metric, unit=each.unit, better=each.better, detail=each.detail)
            found.append(Row(case=case.label, label=label, size=size, way=each.way, samples=[[each.value]], **told))
    return found


def detail(found: list[Row]) -> BenchDetail:
    machine = Machine(device="cpu", threads=1, dtype="float32", model="demo", versions={})
    return BenchDetail(suite="quality", machine=machine, rates=[], rows=found)


@pytest.fixture(scope="module")
def scored() -> list[Row]:
    return rows(CASE, quality, subject(CASE))


def test_perplexities_are_those_of_the_stream_over_tokens_that_all_policies_scored(scored, demo):
    policies = ["4+60", "1+63", "0+64", "1+1", "0+2", "dense"]
    found = api.stream(model=demo, policies=policies, limit=1500, progress=lambda _: None)
    common = np.arange(1500) % 50 == 0  # what recompute scores; BOS stands in front, so token 0 is the first target
    for label in policies:
        (row,) = [row for row in scored if row.label == label]
        expected = np.exp(found.nll[label][common].astype(np.float64).mean())
        assert row.value == pytest.approx(expected, rel=1e-5)
        assert row.detail["own_perplexity"] == pytest.approx(found.result.measurement(f"{label}.perplexity").value)
        assert row.detail["tokens"] == common.sum()


@torch.no_grad()
def test_predictions_beside_everything_kept_are_those_of_the_stock_model_with_and_without_a_mask(demo, book):
    settings = dict(sinks=(2,), caches=(40,), limit=240, peers=("dense",), beside_full=True)
    case = QualityCase(kv=("full", "2bit"), kv_recent=0, **settings)
    found = rows(case, quality, subject(case))
    read = {(row.label, row.metric): row for row in found}
    ids_T = torch.tensor([demo.bos_id, *demo.tokenizer(book[:4000], add_special_tokens=False).input_ids])[:241]
    whole = demo.model(ids_T[None]).logits[0, :-1].double().log_softmax(-1)
    scorer, own = scorer_for(demo, SinkWindow(sinks=2, window=38), bos=True), []
    with attached(demo.model, scorer._cache):
        for token in ids_T[:-1]:
            one = torch.ones(1, 1, dtype=torch.long)
            own.append(demo.model(token[None, None], position_ids=0 * one, attention_mask=one, use_cache=False).logits)
            scorer._cache.advance(1)
    own = torch.cat(own)[:, 0].double().log_softmax(-1)
    kl = read["2+38", "kl"]
    assert kl.value == pytest.approx(float((whole.exp() * (whole - own)).sum(-1).mean()), rel=1e-3)
    assert kl.detail["tokens"] == 240
    flips = float((whole.argmax(-1) != own.argmax(-1)).double().mean())
    assert read["2+38", "flips"].value == pytest.approx(100 * flips, abs=0.5)
    assert read["2+38,2bit,keep=none", "kl"].value > kl.value
    assert ("dense", "kl") not in read
    text = demo.tokenizer(book[:8000], add_special_tokens=False, return_offsets_mapping=True)
    size = len(book[: text.offset_mapping[239][1]].encode())
    bits = np.log2(read["2+38", "perplexity"].value) * 240 / size
    assert read["2+38", "bits_per_byte"].value == pytest.approx(bits, rel=1e-6)
    shown = beside_table(detail(found))
    assert shown.columns == ["setting", "KL, nats", "another token likeliest", "bits a byte"]
    assert [row[0] for row in shown.rows] == ["2+38", "2+38, 2-bit KV, last 0 in full", "dense"]


def test_bytes_are_those_of_the_text_alone_whatever_holds_it(demo, book, tmp_path):
    first, second, records = tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "c.jsonl"
    first.write_text(book[:900])
    second.write_text(book[900:9000])
    records.write_text("".join(json.dumps({"id": "x" * 200, "text": book[i : i + 900]}) + "\n" for i in (0, 900)))
    ids, rate = opening(demo, (str(first), str(second)), 600)
    before = demo.tokenizer(book[:900], add_special_tokens=False).input_ids
    after = demo.tokenizer(book[900:9000], add_special_tokens=False, return_offsets_mapping=True)
    assert ids.tolist() == [*before, *after.input_ids][:600]
    size = 900 + after.offset_mapping[600 - len(before) - 1][1]
    assert rate == pytest.approx(600 / size, rel=0.01)  # some characters are longer than a byte
    assert opening(demo, (str(records),), None)[1] == pytest.approx(rate, rel=0.1)


def test_sinks_that_fill_the_cache_are_left_out_and_peers_stand_by_themselves(scored):
    labels = ["0+64", "1+63", "4+60", "0+2", "1+1", "dense", "recompute-64", "recompute-2"]
    assert [row.label for row in scored] == labels
    assert [row.way for row in scored] == ["sinkctl"] * 5 + ["dense", "recompute", "recompute"]
    with pytest.raises(UsageError, match="4 sinks leave no window"):
        sizes(QualityCase(sinks=(4,), caches=(4,)))


def test_sinks_beat_none_on_the_demo_model():
    case = QualityCase(sinks=(0, 4), caches=(64,), limit=4000, peers=())
    bare, kept = rows(case, quality, subject(case))
    assert kept.value < 0.95 * bare.value


def test_the_text_is_streamed_once_for_all_sizes(monkeypatch):
    case, runs = QualityCase(sinks=(0, 1), caches=(8,), limit=40, peers=()), []
    real = quality.run
    monkeypatch.setattr(quality, "run", lambda *args, **kwargs: runs.append(1) or real(*args, **kwargs))
    assert len(rows(case, quality, subject(case))) == 2
    assert len(runs) == 1


def test_recomputation_takes_no_more_than_the_context():
    case = QualityCase(sinks=(1,), caches=(512,), limit=40, peers=("recompute",))
    group = quality.group(case, subject(case), {"cache": 512})
    assert group.choices["recompute"].startswith("511 ")
    assert group.readings[0].way == "recompute"


def test_random_weights_have_no_perplexity():
    with pytest.raises(ModelError, match="tiny has no tokenizer"):
        rows(CASE, quality, subject(CASE, shape="tiny"))


def test_the_table_has_a_row_a_number_of_sinks_and_a_column_a_cache(scored):
    table = quality_table(detail(scored))
    assert table.columns == ["sinks", "cache of 2", "cache of 64"]
    assert [row[0] for row in table.rows] == ["0", "1", "4", "dense", "recompute"]
    assert table.rows[2][1] == "–", "4 sinks do not fit a cache of 2"
    assert table.rows[3][1] == table.rows[3][2], "dense has no size"
    assert table.rows[3][1].endswith("†"), "1500 tokens exceed the context of 512"
    by_label = {row.label: row.value for row in scored}
    best = min(range(3), key=lambda y: by_label[["0+64", "1+63", "4+60"][y]])
    assert (best, 2) in table.best
    assert {x for _, x in table.best} == {1, 2}
    assert not quality_table(detail([]))


def test_the_picture_has_a_line_a_cache_and_shows_hostile_names_as_text(scored):
    hostile = [row.model_copy(update={"case": "<b>&"}) for row in scored]
    picture = quality_picture(detail(scored + hostile))
    root = ElementTree.fromstring(inline(picture, "quality"))
    titles = set(picture.lines)
    said = {element.text.partition(":")[0] for element in root.iter("title")}
    assert "<b>&" in said
    names = ["cache of 64", "cache of 2", "recompute 64", "recompute 2"]
    assert titles >= {f"{case}: {name}" for case in ("quality", "<b>&") for name in names}
    assert "quality: dense" not in titles, "beyond the context it is off the scale of the others"
    assert not [element for element in root.iter() if element.tag == "b"]
    assert quality_picture(detail(scored[:1])) is None


def test_precisions_are_sizes_of_their_own_and_bad_ones_are_refused_before_anything_runs():
    case = QualityCase(sinks=(1,), caches=(64,), kv=("full", "2bit"), kv_keep=("none", "first:1"), kv_recent=8)
    found = sizes(case)
    assert list(found) == ["1+63", "1+63,2bit,keep=none", "1+63,2bit,keep=first-1", "dense"]
    assert kept_in(case, found["1+63,2bit,keep=first-1"]).label == "1+63, 2-bit KV, last 8 in full, first 1 kept"
    for settings, words in (
        ({"kv": ("5bit",)}, "quality: kv 5bit: no such precision; one of full, 8bit"),
        (
            {"kv": ("4bit",), "kv_recent": 40},
            "^quality: kv_recent 40: a window of 63 holds no group of 32 tokens past those; give at most 31",
        ),
    ):
        with pytest.raises(UsageError, match=words):
            sizes(case.model_copy(update=settings))


def made(label: str, size: int, stretches: list[float], **detail) -> Row:
    told = dict(unit="perplexity", better="lower", metric="perplexity", way=detail.pop("way", "sinkctl"))
    own = {"setting": label, "bytes": size, "stretches": stretches, **detail}
    value = np.exp(np.mean(stretches))
    return Row(case="quality", label=label, size={"sinks": 1}, samples=[[value]], detail=own, **told)


def test_settings_worth_their_memory_are_surely_better_than_the_one_before(scored):
    """Differences are paired: a stretch that is hard for all settings makes none of them unsure."""
    hard = np.array([1.0, 5.0, 2.0, 4.0])
    cheap = made("cheap", 100, list(hard))
    unsure = made("unsure", 200, list(hard - [0.3, -0.2, 0.3, -0.2]))  # −0.05 ± 0.144
    better = made("better", 300, list(hard - [0.1, 0.12, 0.1, 0.12]))  # −0.11 ± 0.0058
    others = [made("none", 0, list(hard)), made("far", 10, list(hard - 9), way="dense", extrapolates_from=512)]
    table = settings_table(detail([better, unsure, cheap, *others]))
    assert [row[:3] for row in table.rows] == [["100 B", "cheap", "20.09"], ["300 B", "better", "17.99"]]
    assert [row[3:] for row in table.rows] == [["–", "+11.6 % ± 0.64"], ["-10.4 % ± 0.52", "–"]]
    assert not settings_table(detail([cheap]))
    by_label = {row.label: row.detail for row in scored}
    layers, width, float32 = 12, 64, 4
    assert by_label["4+60"]["bytes"] == 64 * layers * 2 * width * float32
    assert np.exp(np.mean(by_label["4+60"]["stretches"])) == pytest.approx(scored[2].value, rel=1e-6)


def test_retrieval_counts_the_answers_that_questions_counts(demo):
    case = RetrievalCase(caches=("0+64", "dense"), lines=20, back=(1, 15))
    of = subject(case)
    of.__dict__["loaded"] = demo
    found = rows(case, retrieval, of)
    assert [row.label for row in found] == ["0+64,back=1", "0+64,back=15", "dense,back=1", "dense,back=15"]
    for row in found:
        lines = {"count": 20, "every": 10, "back": [row.size["back"]]}
        result = api.ask(model=demo, policies=row.size["policy"], lines=lines).result
        assert row.value == 100 * result.measurement("exact_match").value
        assert row.detail["asked"] == result.questions.questions
    table = retrieval_table(detail(found))
    assert table.columns == ["policy", "1", "15"]
    assert table.rows[0][2].endswith("†"), "15 lines of 27 tokens have left a window of 64"
    assert not table.rows[1][2].endswith("†")
    assert not quality_table(detail(found))
    assert not retrieval_table(detail([]))


def test_retrieval_is_asked_at_every_precision(demo):
    told = dict(lines=12, every=6, back=(1,), kv=("full", "4bit"), kv_keep=("none", "first:1"), kv_recent=16)
    case = RetrievalCase(caches=("4+60",), **told)
    of = subject(case)
    of.__dict__["loaded"] = demo
    found = rows(case, retrieval, of)
    assert [row.label for row in found] == [
        "4+60,back=1", "4+60,4bit,keep=none,back=1", "4+60,4bit,keep=first-1,back=1",
    ]  # fmt: skip
    names = [row[0] for row in retrieval_table(detail(found)).rows]
    assert names == ["4+60", "4+60, 4bit, nothing kept", "4+60, 4bit, first:1 kept"]
    with pytest.raises(UsageError, match="retrieval: kv 4bit: what heavy_hitter keeps cannot be rounded; leave it out"):
        sizes(RetrievalCase(caches=("heavy_hitter:4+60",), **told))
    with pytest.raises(UsageError, match="retrieval: kv_recent 128: a window of 60 holds no group"):
        sizes(RetrievalCase(caches=("4+60",), **told | {"kv_recent": 128}))


def test_predicted_tokens_are_kept_where_a_model_has_any():
    """BOS of the built-in model is made massive, by its embedding."""
    loaded = load()
    loaded.model.lm_head.weight = torch.nn.Parameter(loaded.model.lm_head.weight.clone())  # tied: the head stays
    with torch.no_grad():
        loaded.model.get_input_embeddings().weight[loaded.bos_id, 7] = 3e3
    told = dict(kv=("2bit",), kv_keep=("none", "first:1", "predicted"), kv_recent=0, beside_full=True)
    case = QualityCase(sinks=(1,), caches=(64,), limit=200, peers=(), **told)
    of = subject(case)
    of.__dict__["loaded"] = loaded
    kl = {row.size["keep"]: row.value for row in rows(case, quality, of) if row.metric == "kl"}
    assert list(kl) == ["none", "first:1", "predicted"]
    assert kl["predicted"] != kl["none"]
    refused = subject(case)
    with pytest.raises(ModelError, match="quality: kv_keep predicted: no activation of demo is massive"):
        quality.group(case, refused, sizes(case)["1+63,2bit,keep=predicted"])


def test_names_from_outside_make_labels_without_dots_or_colons():
    case = TasksCase(tasks=("a.b:c",), caches=("recompute:4+60", "dense"))
    assert list(sizes(case)) == ["recompute-4+60,a-b-c", "dense,a-b-c"]
    with pytest.raises(UsageError, match="4\\+0"):
        sizes(TasksCase(tasks=("a",), caches=("4+0",)))


def test_metrics_of_the_harness_keep_their_direction_error_and_filter():
    found = {
        "results": {"alias": "a", "acc,none": 0.5, "acc_stderr,none": 0.1, "exact_match,strict.match": 1,
                    "exact_match_stderr,strict.match": "N/A", "word_perplexity,none": float("inf")},
        "higher_is_better": {"acc": True, "exact_match": None},
        "samples": 7,
    }  # fmt: skip
    accuracy, exact = tasks.readings(found)
    assert (accuracy.metric, accuracy.value, accuracy.better) == ("acc", 0.5, "higher")
    assert accuracy.detail == {"stderr": 0.1, "samples": 7}
    assert (exact.metric, exact.better, exact.detail["stderr"]) == ("exact_match-strict-match", "neither", None)
