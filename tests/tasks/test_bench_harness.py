"""Our streams inside lm-evaluation-harness, beside the harness' own model of the same checkpoint (`eval` extra)."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from sinkctl import api
from sinkctl.errors import ModelError, TextError, UsageError
from sinkctl.model.load import DEMO, load
from sinkctl.model.settings import ModelSettings
from sinkctl.model.shapes import built
from sinkctl.recipe.bench import TasksCase
from sinkctl.recipe.load import validate
from sinkctl.recipe.sizes import policy_of, sizes
from sinkctl.tasks.bench import harness
from sinkctl.tasks.bench.cases import tasks
from sinkctl.tasks.bench.harness import SinkctlLM
from sinkctl.tasks.bench.subject import Subject

PAIRS = [
    ("He went to the", " window and looked out."),
    ("She said that it was ", "impossible"),  # the space moves to the continuation
    ("", "Once upon a time"),
    ("<|bos|>It was", " a"),  # brings BOS itself
    ("Alice was beginning to get very tired of sitting by her", " sister"),
]


def asked(kind: str, arguments: list[tuple]) -> list[Instance]:
    return [Instance(kind, {}, each, number) for number, each in enumerate(arguments)]


@pytest.fixture(scope="module")
def stock() -> HFLM:
    return HFLM(pretrained=str(DEMO), device="cpu", dtype="float32", batch_size=1)


@pytest.mark.parametrize("policy", ["4+252", "0+256", "dense", "recompute:4+252"])
def test_short_texts_have_the_likelihoods_of_the_harness_own_model(policy, demo, stock):
    requests = asked("loglikelihood", PAIRS)
    ours = SinkctlLM(demo, policy_of(policy)).loglikelihood(requests, disable_tqdm=True)
    theirs = stock.loglikelihood(requests, disable_tqdm=True)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    np.testing.assert_allclose([nll for nll, _ in ours], [nll for nll, _ in theirs], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("policy", ["4+60", "recompute:4+60"])
def test_what_is_likeliest_in_a_long_text_is_what_generation_goes_on_with(policy, demo, book):
    lm = SinkctlLM(demo, policy_of(policy))
    context = book[3000:3800].rstrip()
    (text,) = lm.generate_until(asked("generate_until", [(context, {"max_gen_toks": 8, "until": []})]))
    whole, before = lm.tok_encode(context + text), lm.tok_encode(context)
    assert len(before) > 2 * 65
    if whole[: len(before)] != before or len(whole) != len(before) + 8:
        pytest.fail("choose a place where the text generated is spelled as it was generated")
    wrong = f"{text[:-1]}{'b' if text[-1] == 'a' else 'a'}"
    found = lm.loglikelihood(asked("loglikelihood", [(context, text), (context, wrong)]), disable_tqdm=True)
    assert [greedy for _, greedy in found] == [True, False]


def test_a_long_text_rolls_as_the_stream_scores_it(demo, book, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(book[:8000])
    found = api.stream(path, model=demo, policies="4+60", progress=lambda _: None)
    (total,) = SinkctlLM(demo, policy_of("4+60")).loglikelihood_rolling(asked("rolling", [(book[:8000],)]))
    assert total == pytest.approx(-found.nll["4+60"].astype(np.float64).sum(), rel=1e-6)


def test_a_short_text_rolls_as_in_the_harness_own_model(demo, stock, book):
    stock = HFLM(pretrained=str(DEMO), device="cpu", dtype="float32", batch_size=1, add_bos_token=False)
    requests = asked("rolling", [(book[:600],), (book[700:900],)])  # BOS once: it is the harness' prefix already
    ours = SinkctlLM(demo, policy_of("4+252")).loglikelihood_rolling(requests)
    np.testing.assert_allclose(ours, stock.loglikelihood_rolling(requests, disable_tqdm=True), rtol=1e-5)


@torch.no_grad()
def test_no_bos_comes_in_front_where_a_conversion_took_it_away(demo, book, tmp_path):
    settings = dict(samples=2, evaluation={"run": False}, progress=lambda now: None)
    path = api.convert(demo, to="sink_logit", output=tmp_path / "out", **settings).path
    lm = SinkctlLM(load(str(path)), policy_of("dense"))
    text = book[:600]
    (line_break,), ids = (lm.tokenizer.encode(each, add_special_tokens=False) for each in ("\n", text))
    assert lm.tokenizer.bos_token == "<|bos|>"
    assert lm.prefix_token_id == line_break
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    log_p_TV = model(torch.tensor([[line_break, *ids]])).logits[0, :-1].double().log_softmax(-1)
    expected = float(log_p_TV.gather(-1, torch.tensor(ids)[:, None]).sum())
    requests = asked("rolling", [(text,)])
    assert lm.loglikelihood_rolling(requests)[0] == pytest.approx(expected, rel=1e-5)
    # What README.md says of the harness' own model: BOS in front without `prefix_token_id`.
    stock = HFLM(pretrained=str(path), device="cpu", dtype="float32", batch_size=1, prefix_token_id=line_break)
    assert stock.loglikelihood_rolling(requests, disable_tqdm=True)[0] == pytest.approx(expected, rel=1e-5)
    stock = HFLM(pretrained=str(path), device="cpu", dtype="float32", batch_size=1)
    assert stock.prefix_token_id == demo.bos_id


def test_generation_is_that_of_transformers_and_stops_where_it_is_told(demo, book):
    lm, context = SinkctlLM(demo, policy_of("dense")), book[3000:3400]
    ids = demo.tokenizer(context, return_tensors="pt").input_ids
    expected = demo.tokenizer.decode(demo.model.generate(ids, max_new_tokens=24, do_sample=False)[0, ids.shape[1] :])
    stop = expected.split()[3]
    wanted = [(context, {"until": until, "max_gen_toks": 24}) for until in ([], [stop])]
    assert lm.generate_until(asked("generate_until", wanted)) == [expected, expected.split(stop)[0]]
    with pytest.raises(UsageError, match="num_beams"):
        lm.generate_until(asked("generate_until", [(context, {"until": [], "num_beams": 3})]))


def test_draws_differ_between_requests_and_are_the_same_in_another_run(demo, book):
    wanted = {"until": [], "max_gen_toks": 12, "do_sample": True, "temperature": 1.0}
    drawn = [
        SinkctlLM(demo, policy_of("4+60")).generate_until(asked("generate_until", [(book[:300], wanted)] * 2))
        for _ in range(2)
    ]
    assert drawn[0] == drawn[1]
    assert drawn[0][0] != drawn[0][1]


@pytest.fixture
def folder(tmp_path, book):
    """Two tasks of our own: sentences to tell from shuffled ones, and passages to predict."""
    sentences = [s.strip() for s in book[5000:9000].split(". ") if 40 < len(s) < 200][:12]
    choices = [{"start": s[:20], "right": s[20:], "wrong": s[20:][::-1]} for s in sentences]
    (tmp_path / "choices.jsonl").write_text("".join(json.dumps(line) + "\n" for line in choices))
    (tmp_path / "passages.jsonl").write_text("".join(json.dumps({"text": book[i:][:900]}) + "\n" for i in (0, 9000)))
    common = {"dataset_path": "json", "test_split": "test"}
    files = {"choices": "choices.jsonl", "passages": "passages.jsonl"}
    configs = {
        "choices": {
            "output_type": "multiple_choice", "doc_to_text": "{{start}}", "doc_to_choice": "{{[right, wrong]}}",
            "doc_to_target": 0, "target_delimiter": "", "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        },
        "passages": {
            "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}",
            "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
        },
    }  # fmt: skip
    for name, config in configs.items():
        data = {"dataset_kwargs": {"data_files": {"test": str(tmp_path / files[name])}}}
        (tmp_path / f"{name}.yaml").write_text(json.dumps({"task": f"own_{name}", **common, **data, **config}))
    return tmp_path


def subject(case: TasksCase, demo) -> Subject:
    of = Subject(validate({"task": "bench", "cases": [case.model_dump()]}))
    of.__dict__["loaded"] = demo
    return of


def test_tasks_of_a_folder_become_readings(folder, demo, book, monkeypatch, capfd):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
    case = TasksCase(tasks=("own_choices", "own_passages"), include=str(folder), caches=("4+60",), limit=8)
    found = sizes(case)
    assert list(found) == ["4+60,own_choices", "4+60,own_passages"]
    of = subject(case, demo)
    groups = [tasks.group(case, of, size) for size in found.values()]
    choices, passages = (group.readings for group in groups)
    before = "'<|bos|>': as the tokenizer puts it in front of a text"
    assert [group.choices for group in groups] == [{"token before a text scored whole": before}] * 2
    found = {reading.metric: reading for reading in choices}
    assert set(found) == {"acc", "acc_norm"}
    assert found["acc"].value == 1.0, "no sentence is likelier backwards"
    assert (found["acc"].better, found["acc"].detail["samples"]) == ("higher", 8)
    by_metric = {reading.metric: reading for reading in passages}
    texts = [book[i:][:900] for i in (0, 9000)]
    total = sum(SinkctlLM(demo, policy_of("4+60")).loglikelihood_rolling(asked("rolling", [(t,) for t in texts])))
    bits = -total / np.log(2) / sum(len(text.encode()) for text in texts)
    assert by_metric["bits_per_byte"].value == pytest.approx(bits, rel=1e-6)
    assert (by_metric["word_perplexity"].better, by_metric["word_perplexity"].unit) == ("lower", "perplexity")
    assert capfd.readouterr().out == "", "what the harness prints would stand among our own answers"


def test_tasks_that_make_their_own_texts_get_the_tokenizer_and_the_length(demo):
    """RULER's, of which a minute goes by for one."""
    own = harness._tasks(None, demo.tokenizer, 2048).metadata
    assert own["max_seq_lengths"] == [2048]
    told = AutoTokenizer.from_pretrained(own["tokenizer"])
    assert told("Once upon a time").input_ids == demo.tokenizer("Once upon a time").input_ids
    results = {"1024,none": 0.25, "1024_stderr,none": 0.1, "4096,none": -1, "acc,none": -1}
    read = tasks.readings({"results": results, "higher_is_better": {"1024": True}, "samples": 4})
    assert [(reading.metric, reading.value) for reading in read] == [("1024", 0.25), ("acc", -1.0)]


def test_texts_that_ruler_would_seek_for_ever_are_refused_and_others_are_those_of_every_run(demo):
    """In a run of its own lm_eval is deaf even to Ctrl-C."""
    with pytest.raises(UsageError, match=r"lengths: 512: ruler_vt makes no texts so short; give at least 9\d\d tokens"):
        harness._loaded("ruler_vt", None, demo.tokenizer, 512)
    made = []
    for _ in range(2):
        harness._loaded.cache_clear()
        made.append([doc["input"] for doc in harness._loaded("ruler_vt", None, demo.tokenizer, 1024).eval_docs][:2])
    assert made[0] == made[1]


def test_contexts_side_by_side_are_continued_as_each_alone(demo, book):
    wanted = {"until": [], "max_gen_toks": 9}
    contexts = [book[3000:3400], book[5000:5090], book[7000:7700]]
    for policy in ("4+60", "dense", "heavy_hitter:4+60@8", "snap:4+60"):
        lm = SinkctlLM(demo, policy_of(policy))
        together = lm.generate_until(asked("generate_until", [(context, wanted) for context in contexts]))
        assert together == [lm.generate_until(asked("generate_until", [(c, wanted)]))[0] for c in contexts], policy


def test_what_cannot_be_run_is_said_in_one_line(folder, demo):
    case = TasksCase(tasks=("own_choice",), include=str(folder))
    with pytest.raises(UsageError, match="own_choice: no such task; did you mean 'own_choices'"):
        tasks.group(case, subject(case, demo), {"policy": "4+60", "task": "own_choice"})
    (folder / "passages.jsonl").unlink()
    with pytest.raises(TextError, match="own_passages"):
        tasks.group(case, subject(case, demo), {"policy": "4+60", "task": "own_passages"})
    with pytest.raises(ModelError, match="has no tokenizer"):
        SinkctlLM(built("tiny", ModelSettings(device="cpu")), policy_of("4+60"))
