"""`sinkctl measure` from end to end: planted sinks, real weights, several checkpoints, stops and resumes."""

import csv
import json
import math
from collections import Counter

import pytest
import torch
from carrier import carrier, planted, zero_weights
from families import HYBRID, STREAMED, tiny
from places import DATA

from sinkctl.errors import Interrupted, ModelError, ResumeError, ThresholdError, UsageError
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import CostSettings, InputSettings, MeasureRecipe
from sinkctl.result.compare import judge, parse
from sinkctl.result.measure import CheckpointScore, HeadMap, InputScore
from sinkctl.result.schema import Result
from sinkctl.tasks.measure import run
from sinkctl.tasks.measure.heads import write_heads

NO_COST = CostSettings(run=False)
WORDS = " ".join(f"w{2 + i * i % 60}" for i in range(4000))


def recipe(cost: CostSettings = NO_COST, **changes) -> MeasureRecipe:
    own = {key: changes.pop(key) for key in list(changes) if key in InputSettings.model_fields}
    return MeasureRecipe(input=InputSettings(**own), cost=cost, **changes)


@pytest.fixture
def words(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text(WORDS)
    return (str(path),)


def scores(outcome) -> dict:
    return {score.name: score for score in outcome.result.measure.checkpoints[0].inputs}


def test_planted_sinks_are_found_in_every_kind_of_input(words):
    """Heads of logits 0, 2, 3, 6 sink on BOS by half; without BOS nothing sinks; repeated BOS would be uniform."""
    loaded = carrier([[0, 2, 3, 6], [0, 2, 3, 6]], kv_heads=2)
    kinds = ("natural", "random", "repeat")
    found = scores(run(recipe(kinds=kinds, files=words, samples=5, epsilon=(0.3, 0.5)), loaded))
    for kind in kinds:
        with_bos, without = found[f"{kind}, BOS"], found[f"{kind}, no BOS"]
        assert [sink.percent for sink in with_bos.sinks if sink.key == 0] == [50.0, 25.0]
        assert all(sink.percent == 0 for sink in without.sinks)
        for row in with_bos.heads.alpha[0]:
            assert row == pytest.approx([planted(s, 64) for s in (0, 2, 3, 6)], abs=1e-5)
        uniform = sum(1 / t for t in range(1, 65)) / 64
        assert without.layers[0].alpha == pytest.approx(uniform, abs=1e-6)
        entropy = sum(math.log(math.exp(s) + t - 1) - s * math.exp(s) / (math.exp(s) + t - 1)
                      for s in (0, 2, 3, 6) for t in range(1, 65)) / 256  # fmt: skip
        assert with_bos.layers[1].entropy == pytest.approx(entropy, abs=1e-5)
        assert max(with_bos.balance_error, without.balance_error) <= 1e-6
        assert with_bos.first_tokens[0] == "<s>"


def test_shorter_samples_count_for_what_they_are(tmp_path):
    """Records of unequal length, padded; the planted head of logit 3 reads the mean of its closed forms."""
    path = tmp_path / "records.jsonl"
    lengths = (63, 20, 40)
    path.write_text("".join(f'{{"text": "{" ".join(["w5"] * length)}"}}\n' for length in lengths))
    for layout in ("right", "left", "packed"):
        chosen = recipe(files=(str(path),), samples=3, bos="on", layout=layout)
        (found,) = scores(run(chosen, carrier([[3.0]]))).values()
        expected = sum(planted(3.0, length + 1) for length in lengths) / 3
        assert found.layers[0].alpha == pytest.approx(expected, abs=1e-6)


def test_the_demo_model_sinks_on_bos_and_pays_for_losing_it(demo):
    cost = CostSettings(samples=4, length=128, tokens=2000, window=124)
    outcome = run(recipe(cost, samples=40), demo)
    found, said = scores(outcome), " ".join(outcome.result.verdict)
    assert found["natural, BOS"].sinks[0].percent == pytest.approx(76, abs=3)
    assert found["natural, no BOS"].sinks[0].percent < 0.5
    assert "heads sink on “<|bos|>”" in said
    assert "Put BOS in front" in said
    assert outcome.result.measurement("cost.no_sinks").value > 10
    with_bos = found["natural, BOS"].layers
    assert min(layer.value_drain for layer in with_bos) < 0.1
    assert max(layer.massive.top[0] for layer in with_bos) > 20
    assert all(layer.massive.token == 0 for layer in with_bos[3:11])


def test_what_one_sample_alone_has_is_massive_and_is_told_of_that_sample(demo, tmp_path):
    """Sizes beside what the stock model's blocks put out; by the definition one sample's largest alone is massive."""
    sentences = "It was a dark night. ", "Call me Ishmael now. ", "The sea was calm. "
    path, texts = tmp_path / "records.jsonl", [5 * sentence for sentence in sentences]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    tops = []
    for text in texts:
        tops.append([])
        hooks = [
            block.register_forward_hook(lambda _, __, out: tops[-1].append(float(out.abs().max())))
            for block in demo.model.model.layers
        ]
        with torch.no_grad():
            demo.model(torch.tensor([demo.tokenizer(text, add_special_tokens=False)["input_ids"]]))
        for hook in hooks:
            hook.remove()
    tops_LN = torch.tensor(tops).T
    layer, size = int(tops_LN.amax(1).argmax()), float(tops_LN.max())
    definition = {"size": 0.999 * size, "ratio": 1.0}
    outcome = run(recipe(samples=3, files=(str(path),), bos="off", massive=definition), demo)
    (found,) = scores(outcome).values()
    ours = [layer.massive for layer in found.layers]
    assert [one.largest for one in ours] == pytest.approx(tops_LN.amax(1).tolist(), rel=1e-5)
    assert [one.top[0] for one in ours] == pytest.approx(tops_LN.mean(1).tolist(), rel=1e-5)
    assert (found.massive_layers, found.layers[layer].massive.samples) == ([layer], 1)
    assert f"Massive activations in layers {layer}, in at most 1 of 3 samples: |h| = " in outcome.result.verdict[1]
    assert outcome.result.measurement("massive_max").value == pytest.approx(size, rel=1e-5)


def test_a_model_without_a_sink_is_told_so(stories):
    own = (str(DATA / "stories.txt"),)
    without_costs = run(recipe(samples=20, files=own), stories).result.verdict
    assert without_costs[0].startswith("No sink")
    assert without_costs[-1] == "What evicting the first tokens costs was not measured."
    costly = run(recipe(CostSettings(samples=8, length=128, tokens=2000, window=60), samples=20, files=own), stories)
    assert "plain window is safe" in costly.result.verdict[-1]


def test_layers_without_attention_are_named(words):
    loaded = LoadedModel(tiny(*HYBRID["qwen3_next"], torch.float32), carrier([[0.0]]).tokenizer, "hybrid", "in memory")
    (found,) = scores(run(recipe(files=words, samples=3, length=32, bos="off"), loaded)).values()
    assert [layer.kind for layer in found.layers] == ["linear_attention: no softmax map"] * 3 + ["softmax"]
    assert found.heads.layers == [3]
    assert found.layers[3].gate is not None
    assert found.layers[0].first_token_expert is not None


def test_thresholds_hold_for_each_of_several_checkpoints(tmp_path):
    for name, weights in (("flat", True), ("random", False)):
        model = tiny(*STREAMED["llama"], torch.float32)
        (zero_weights(model) if weights else model).save_pretrained(tmp_path / name)
        carrier([[0.0]]).tokenizer.save_pretrained(tmp_path / name)
    names = (str(tmp_path / "flat"), str(tmp_path / "random"))
    result = run(recipe(kinds=("random",), samples=4, bos="off", checkpoints=names)).result
    assert [score.label for score in result.measure.checkpoints] == ["flat", "random"]
    flat = result.measurement("alpha_max@flat").value
    assert flat == pytest.approx(0.0741233, abs=1e-6)
    judge(result, [parse("alpha_max>=0.05"), parse(f"alpha_max@flat<={flat + 1e-9}")]).check()
    with pytest.raises(ThresholdError, match="alpha_max@random is"):
        judge(result, [parse(f"alpha_max<={flat + 1e-9}")]).check()
    with pytest.raises(UsageError, match="did you mean 'alpha_max@flat'"):
        run(recipe(checkpoints=names, fail_on=("alpha_max@flatt<=1",)))


def stopping_after(batches: int, loaded: LoadedModel):
    """A `stop` that is asked before every block of the probe's two passes and of each batch, and when that is done."""
    layers = loaded.model.config.num_hidden_layers
    asked = iter([False] * (2 * layers + batches * (layers + 1)) + [True])
    return lambda: next(asked)


def test_a_stopped_run_goes_on_to_the_same_result(stories, tmp_path):
    chosen = recipe(kinds=("natural", "random"), samples=6, batch=2)
    whole = run(chosen, stories)
    with pytest.raises(Interrupted, match="--resume"):
        run(chosen, stories, output=tmp_path / "kept", stop=stopping_after(7, stories))
    resumed = run(chosen, stories, output=tmp_path / "kept", resume=True)
    one, two = (outcome.result.measure.checkpoints[0] for outcome in (whole, resumed))
    untimed = [[i.model_copy(update={"seconds": 0}) for i in score.inputs] for score in (one, two)]
    assert untimed[0] == untimed[1]
    assert (one.notes, one.costs, one.verdict) == (two.notes, two.costs, two.verdict)
    assert whole.arrays.keys() == resumed.arrays.keys()
    assert all(torch.equal(x.nan_to_num(-1), resumed.arrays[name].nan_to_num(-1)) for name, x in whole.arrays.items())
    assert {p.name for p in (tmp_path / "kept").iterdir()} >= {"result.json", "arrays.safetensors", "recipe.yaml"}
    with pytest.raises(ResumeError):
        run(chosen, stories, output=tmp_path / "kept", resume=True)


def test_every_head_is_kept_as_a_row_whose_means_are_those_of_its_layer(demo, tmp_path):
    chosen = recipe(samples=3, length=24, bos="auto", keys=1, save_as=("csv", "jsonl"))
    outcome = run(chosen, demo, output=tmp_path / "run")
    (score,) = outcome.result.measure.checkpoints[0].inputs
    rows = [json.loads(line) for line in (tmp_path / "run/heads.jsonl").read_text(encoding="utf-8").splitlines()]
    of_layer = {"alpha_1": "alpha", "entropy": "entropy", "mass_split_sinks": "sinks_mass", "value_norms_rest":
                "value_rest", "qk_cosine_first": "cosine_first", "last_query_1": "last_query"}  # fmt: skip
    for layer in score.layers:
        heads = [row for row in rows if row["layer"] == layer.number]
        assert [row["head"] for row in heads] == list(range(len(heads)))
        for column, field in of_layer.items():
            mean = sum(row[column] for row in heads) / len(heads)
            assert mean == pytest.approx(getattr(layer, field), rel=1e-5), (layer.number, column)
    assert Counter(row["class"] for row in rows) == Counter({k: n for k, n in score.classes.items() if n})
    with (tmp_path / "run/heads.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    said = [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows]
    assert table == said
    assert {row["input"] for row in table} == {"natural, BOS"}


def test_layers_of_unlike_head_counts_are_whole_rows_and_key_value_heads_stand_with_all_that_read_them(tmp_path):
    heads = HeadMap(keys=[0, 1], layers=[2, 5], alpha=[], classes=[["sink"] * 4, ["local"] * 2])
    score = InputScore.model_construct(name="natural", heads=heads)
    alpha = {"alpha.0": torch.arange(12.0).view(4, 3), "alpha.1": torch.tensor([[7.0, math.nan]] * 2)}
    arrays = {f"0/natural/{name}": x for name, x in (alpha | {"value_drain.0": torch.tensor([0.25, 0.5])}).items()}
    checkpoint = CheckpointScore.model_construct(label="one", inputs=[score])
    write_heads(tmp_path, recipe(save_as=("csv",)), {0: checkpoint}, arrays)
    assert (tmp_path / "heads.csv").read_text().splitlines() == [
        "checkpoint,input,layer,head,class,alpha_1,alpha_2,value_drain",
        "one,natural,2,0,sink,0.0,1.0,0.25", "one,natural,2,1,sink,3.0,4.0,0.25",
        "one,natural,2,2,sink,6.0,7.0,0.5", "one,natural,2,3,sink,9.0,10.0,0.5",
        "one,natural,5,0,local,7.0,,", "one,natural,5,1,local,7.0,,",
    ]  # fmt: skip


def test_only_attention_or_only_activations(demo):
    one = scores(run(recipe(samples=4, bos="auto", parts=("attention",)), demo))["natural, BOS"]
    two = scores(run(recipe(samples=4, bos="auto", parts=("activations",)), demo))["natural, BOS"]
    assert one.heads is not None
    assert one.layers[0].massive is None
    assert two.heads is None
    assert two.layers[0].massive is not None


def test_what_cannot_be_measured_is_refused_by_name(words):
    gpt2 = tiny("gpt2", dict(n_positions=128, n_embd=32, n_head=4, n_layer=2), torch.float32)
    tokenizer = carrier([[0.0]]).tokenizer
    with pytest.raises(ModelError, match="learned positions for 128 tokens; --length 128"):
        run(recipe(files=words, length=129, samples=1), LoadedModel(gpt2, tokenizer, "gpt2", "in memory"))
    hybrid = LoadedModel(tiny(*HYBRID["qwen3_next"], torch.float32), tokenizer, "hybrid", "in memory")
    with pytest.raises(ModelError, match="--set layout=right"):
        run(recipe(files=words, samples=2, layout="left"), hybrid)
    mamba = tiny("mamba", dict(num_key_value_heads=None, num_attention_heads=None), torch.float32)
    result = run(recipe(files=words, samples=2), LoadedModel(mamba, tokenizer, "mamba", "in memory")).result
    assert any("no softmax attention" in note for note in result.notes)


def test_what_is_not_finite_is_left_out_and_said(words, tmp_path):
    """One head's queries are not finite: the other heads are measured, and the result can be read again."""
    loaded = carrier([[3.0, 3.0], [0.0, 0.0]])
    with torch.no_grad():
        loaded.model.model.layers[0].self_attn.q_proj.weight[:8] = torch.nan
    result = run(recipe(files=words, samples=3, bos="on"), loaded, output=tmp_path / "kept").result
    assert any("attention is not finite in" in note for note in result.notes)
    again = Result.model_validate_json((tmp_path / "kept/result.json").read_text())
    assert again.measure.checkpoints[0].inputs[0].heads.alpha[0][0][0] is None
    assert again.measure.checkpoints[0].inputs[0].heads.alpha[0][0][1] == pytest.approx(planted(3, 64), abs=1e-5)


def test_notes_of_every_input_are_kept(tmp_path):
    path = tmp_path / "short.txt"
    path.write_text(" ".join(["w5"] * 330))
    notes = run(recipe(kinds=("natural", "random"), files=(str(path),), samples=6), carrier([[1.0]])).result.notes
    assert any("only 5 samples" in note for note in notes)


def test_samples_too_short_or_past_the_context_are_named(demo):
    assert "too short to tell" in run(recipe(samples=2, length=8), demo).result.verdict[0]
    notes = run(recipe(samples=1, length=600, bos="auto", parts=("attention",)), demo).result.notes
    assert "Samples of 600 tokens go past the model's context of 512." in notes


def test_a_changed_text_is_not_resumed(demo, tmp_path, book):
    path = tmp_path / "text.txt"
    path.write_text(book[:20_000])
    chosen = recipe(samples=4, files=(str(path),), batch=2)
    with pytest.raises(Interrupted):
        run(chosen, demo, output=tmp_path / "kept", stop=stopping_after(2, demo))
    path.write_text(book[20_000:40_001])
    with pytest.raises(ResumeError, match="changed since"):
        run(chosen, demo, output=tmp_path / "kept", resume=True)


def test_the_spread_over_samples_is_given(tmp_path):
    """A planted head of logit 3 passes 0.3 in samples of 64 and 70 and not of 200: shares 1, 1, 0."""
    assert planted(3.0, 70) > 0.3 > planted(3.0, 200)
    path = tmp_path / "records.jsonl"
    path.write_text("".join(f'{{"text": "{" ".join(["w5"] * (length - 1))}"}}\n' for length in (64, 70, 200)))
    (found,) = scores(run(recipe(files=(str(path),), samples=3, length=200, bos="on"), carrier([[3.0]]))).values()
    assert found.sinks[0].percent == pytest.approx(100 * 2 / 3)
    assert found.sinks[0].error == pytest.approx(100 * (1 / 3) ** 0.5 / 3**0.5)
