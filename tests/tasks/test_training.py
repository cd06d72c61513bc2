"""Conversions that train, from end to end on tiny checkpoints: what learns, from what, towards what."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from families import tiny
from training_runs import JUDGED, TRAINING, curve, recipe_of, small, train, weights
from transformers import AutoModelForCausalLM, AutoTokenizer

from sinkctl.errors import ModelError, TextError, UsageError
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import TextFiles
from sinkctl.recipe.training import TrainingSettings
from sinkctl.sinks import SINKS
from sinkctl.sinks.code import FAMILIES
from sinkctl.tasks.convert import run
from sinkctl.tasks.convert.training.corpus import of_files
from sinkctl.tasks.convert.training.packing import drawn
from sinkctl.tasks.convert.training.trained import runnable, trainable

SCRATCH = dict(
    model_type="llama", hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, max_position_embeddings=128, tie_word_embeddings=True,
)  # fmt: skip
LORA = {"lora": {"rank": 2, "alpha": 4.0}}


@pytest.fixture(scope="module")
def text(book, tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "novel.txt"
    path.write_text(book[:20_000])
    return path


@pytest.fixture(scope="module")
def model(demo) -> LoadedModel:
    return small(demo.tokenizer)


@pytest.mark.parametrize(
    ("kind", "sink", "ours"),
    [
        ("sink_logit", {}, (".sinks", "o_proj.bias")),
        ("softmax1", {}, ("o_proj.bias",)),
        ("kv_bias", {}, (".sink.",)),
        ("gate", {"place": "value"}, (".sink.",)),
    ],
)
def test_what_is_trained_changes_and_all_else_keeps_every_bit(kind, sink, ours, model, text, tmp_path):
    still = {"lr": 1e-30, "sink_lr": 1e-30, "trained": "new"}  # of what is trained, whose start is another by `match`
    begun = weights(train(tmp_path / "begun", model, kind, text, still, sink, steps=1).path)
    for trained, precision in (("new", "bfloat16"), ("attention", "float32")):
        rates = {"trained": trained, "lr": 1e-2, "weight_decay": 0.5, "optimizer": "muon", "precision": precision}
        found = weights(train(tmp_path / trained, model, kind, text, rates, sink).path)
        assert found.keys() == begun.keys()
        for name, before in begun.items():
            projection = ".self_attn." in name and name.endswith("_proj.weight")
            learns = any(word in name for word in ours) or (trained == "attention" and projection)
            assert torch.equal(found[name], before) is not learns, name


@pytest.mark.parametrize("tied", [False, True])
def test_of_an_embedding_the_row_of_the_sink_token_alone_is_trained(tied, demo, text, tmp_path):
    model = small(demo.tokenizer, tie_word_embeddings=tied)
    rates = {"trained": "new", "sink_lr": 0.05, "weight_decay": 0.5}
    begun, found = (
        weights(train(tmp_path / str(steps), model, "sink_token", text, rates, steps=steps).path) for steps in (0, 3)
    )
    assert begun.keys() == found.keys()
    token = AutoTokenizer.from_pretrained(tmp_path / "3").convert_tokens_to_ids("<|sink|>")
    rows_V = (found["model.embed_tokens.weight"] != begun["model.embed_tokens.weight"]).any(1)
    assert rows_V.nonzero().flatten().tolist() == [token]
    assert all(torch.equal(found[name], x) for name, x in begun.items() if "embed_tokens" not in name)


@pytest.mark.parametrize("trained", ["all", "lora"])
@pytest.mark.parametrize(
    ("kind", "sink", "model_type"),
    [
        ("sink_logit", {}, "granite_swa"), ("value_bias", {"start": "match"}, "llama"), ("sink_token", {}, "llama"),
        ("gate", {"form": "elementwise"}, "qwen3_5_text"), ("gate", {}, "lfm3"), ("kv_bias", {}, "sink_llama"),
        ("gate", {"place": "input"}, "sink_llama"), ("none", {"bos": "keep"}, "llama"),
    ],
)  # fmt: skip
def test_training_that_changes_nothing_writes_the_start(kind, sink, model_type, trained, demo, text, tmp_path):
    if trained == "lora":
        pytest.importorskip("peft")
    gentle = {"lr": 1e-30, "sink_lr": 1e-30, "trained": trained}
    model = small(demo.tokenizer, "qwen3" if model_type in ("qwen3_5_text", "lfm3") else "llama", head_dim=16)
    begun, found = (train(tmp_path / str(steps), model, kind, text, gentle, sink, steps=steps).path for steps in (0, 2))
    config, again = (json.loads((path / "config.json").read_text()) for path in (begun, found))
    assert config == again
    assert config["model_type"] == model_type
    begun, found = weights(begun), weights(found)
    assert begun.keys() == found.keys()
    for name, before in begun.items():
        assert found[name].dtype is before.dtype
        assert torch.allclose(found[name], before, rtol=0, atol=1e-20), name


@pytest.mark.parametrize(
    ("kind", "sink"), [("none", {}), ("sink_logit", {}), ("gate", {}), ("kv_bias", {}), ("sink_token", {})]
)
def test_a_written_checkpoint_is_the_one_that_was_trained(kind, sink, demo, text, tmp_path):
    """The third step's loss is what the checkpoint of two steps has in stock code on that step's sequences."""
    family = "llama" if kind == "sink_logit" else "qwen3"  # which has stock classes with sinks, and with gates
    model = small(demo.tokenizer, family, torch.float32, head_dim=16)
    # All steps at the full rate, so that a run of two is the beginning of one of three.
    rates = {"lr": 3e-3, "final_lr": 1.0, "boundaries": "none", "window": "full", "weight_decay": 0.1}
    curves = {n: curve(train(tmp_path / str(n), model, kind, text, rates, sink, steps=n)) for n in (2, 3)}
    assert curves[3].loss[:2] == curves[2].loss
    written, tokenizer = (
        each.from_pretrained(tmp_path / "2", trust_remote_code=True) for each in (AutoModelForCausalLM, AutoTokenizer)
    )
    front = tokenizer("").input_ids
    corpus = of_files(TextFiles(files=(str(text),)), model, model.bos_id)
    bodies = drawn(corpus, TRAINING["batch"], TRAINING["length"], len(front), "none", seed=0, step=2)
    ids_BT = torch.tensor([[*front, *body.ids] for body in bodies])
    assert ids_BT.shape[1] == TRAINING["length"]
    with torch.no_grad():
        loss = written(input_ids=ids_BT, labels=ids_BT).loss.item()
    assert curves[3].loss[2] == pytest.approx(loss, rel=1e-5)
    assert abs(curves[3].loss[2] - curves[3].loss[1]) > 1e-3


def test_low_rank_updates_are_merged_into_the_weights_they_update(model, text, tmp_path):
    pytest.importorskip("peft")
    ids_BT = torch.randint(3, 4096, (2, 12), generator=torch.Generator().manual_seed(0))
    start = [{"key": torch.randn(1, 16), "value": torch.randn(1, 16)}] * 2
    adapted = runnable(model.model, SINKS["kv_bias"](), start)
    part = trainable(adapted, TrainingSettings(trained="lora", **LORA), None, torch.float32)
    with torch.no_grad():
        plain_BTV = part.model(input_ids=ids_BT).logits
        for parameter in part.parameters:
            parameter.normal_(generator=torch.Generator().manual_seed(1))
        expected_BTV = part.model(input_ids=ids_BT).logits
        found_BTV = part.merged()(input_ids=ids_BT).logits
    assert (expected_BTV - plain_BTV).abs().max() > 0.1
    assert (found_BTV - expected_BTV).abs().max() < 1e-3
    begun = weights(train(tmp_path / "0", model, "kv_bias", text, steps=0).path)
    found = weights(train(tmp_path / "3", model, "kv_bias", text, {"trained": "lora", "lr": 0.01, **LORA}).path)
    assert begun.keys() == found.keys()
    for name, before in begun.items():
        assert torch.equal(found[name], before) is not (".self_attn." in name), name


def test_the_seed_settles_a_run(model, text, tmp_path):
    pytest.importorskip("peft")
    runs = []
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(number)  # of whatever else draws numbers
        said = {"trained": "lora", "seed": seed, "lr": 0.01, **LORA}
        runs.append(train(tmp_path / str(number), model, "kv_bias", text, said, steps=2))
    truth, again, other = ((curve(each).loss, weights(each.path)) for each in runs)
    assert again[0] == truth[0]
    assert all(torch.equal(again[1][name], x) for name, x in truth[1].items())
    assert other[0][0] != truth[0][0], "other sequences"


def test_the_kl_to_the_original_begins_at_0_for_a_copy_of_it(model, text, tmp_path):
    only_kl = {"loss": {"lm": 0, "kl": 1}, "window": "full"}
    same = curve(train(tmp_path / "same", model, "none", text, only_kl, {"bos": "keep"}))
    assert 0 <= same.objective[0] < 1e-6
    assert same.loss[0] > 1
    bare = curve(train(tmp_path / "bare", model, "none", text, only_kl, {"bos": "drop"}))
    assert bare.objective[0] > 1e-3
    narrow = curve(train(tmp_path / "narrow", model, "none", text, only_kl | {"window": 4}, {"bos": "keep"}))
    assert narrow.objective[0] > 1e-3, "the original sees everything"


def test_the_control_learns_the_same_sequences_without_the_mechanism(model, text, tmp_path):
    """So that of a copy of the original, fed alike, is the original's training."""
    kept = {"start": "exact", "bos": "keep"}
    both = train(tmp_path / "both", model, "sink_logit", text, {"control": True, "window": "full"}, kept)
    alone = train(tmp_path / "alone", model, "none", text, {"window": "full"}, {"bos": "keep"})
    assert curve(both, "control").loss == curve(alone).loss
    assert curve(both).loss == pytest.approx(curve(alone).loss, rel=1e-5), "a logit far below takes nothing"


@pytest.mark.parametrize("kind", ["none", "kv_bias"])
def test_steps_do_not_depend_on_how_many_sequences_a_pass_takes(kind, model, tmp_path):
    records = tmp_path / "short.jsonl"
    records.write_text("".join(json.dumps({"text": f"{n} times {n} is {n * n}." * (n % 5)}) + "\n" for n in range(600)))
    means = {"first": 0.5, "massive": 0.01, "massive_limit": 4.0}  # over what a pass holds, here as many tokens each
    losses = {"kl": 0.5} | (means if kind == "none" else {})
    bounds = {"boundaries": "none" if kind == "none" else "mask", "loss": losses, "lr": 1e-3}
    sizes = {
        size: train(tmp_path / str(size), model, kind, records, bounds | {"micro_batch": size}) for size in (1, 3, 4)
    }
    whole = curve(sizes[4])
    for size in (1, 3):
        assert curve(sizes[size]).loss == pytest.approx(whole.loss, abs=1e-6)
        # Two neighbours of float32 are 1e-6 apart at this size.
        assert curve(sizes[size]).objective == pytest.approx(whole.objective, rel=3e-7)
        assert curve(sizes[size]).gradient == pytest.approx(whole.gradient, rel=1e-4)


def test_while_the_mechanism_learns_alone_other_weights_stay(model, text, tmp_path):
    """Three of four steps alone are those of three steps in which nothing else is trained; the fourth trains all."""
    rates = {"lr": 1e-2, "final_lr": 1.0}
    both = train(tmp_path / "both", model, "kv_bias", text, rates | {"alone": 3})
    alone = train(tmp_path / "alone", model, "kv_bias", text, rates | {"trained": "new"})
    assert curve(both).loss == pytest.approx(curve(alone).loss, abs=1e-5)
    assert curve(both).gradient[:3] == pytest.approx(curve(alone).gradient[:3], rel=1e-3)
    assert curve(both).gradient[3] > 1.5 * curve(alone).gradient[3]
    changed = {name for name, x in weights(both.path).items() if not torch.equal(x, weights(alone.path)[name])}
    assert any("mlp" in name for name in changed)


def test_a_loss_on_massive_activations_makes_them_small(demo, text, tmp_path):
    """Planted by the embedding of every token: 200 medians of the first layer's output, of which 20 may stay."""
    ids_BT = demo.tokenizer("the and of to was in that", return_tensors="pt").input_ids

    @torch.no_grad()
    def ratio(model):
        size_TC = model(ids_BT, output_hidden_states=True).hidden_states[1][0].abs()
        return float(size_TC.max() / size_TC.median()), float(size_TC.median())

    loaded, largest = small(demo.tokenizer), {}
    loaded.model.model.embed_tokens.weight.data[:, 5] = 300 * ratio(loaded.model)[1]
    for weight in (0.0, 1.0):
        rates = {"lr": 1e-1, "batch": 2, "loss": {"massive": weight, "massive_limit": 20.0}}
        out = train(tmp_path / str(weight), loaded, "none", text, rates, {"bos": "keep"}, steps=80)
        largest[weight] = ratio(AutoModelForCausalLM.from_pretrained(out.path))[0]
    assert ratio(loaded.model)[0] > 150
    assert largest[0.0] > 100
    assert largest[1.0] < 30


def test_random_weights_learn_a_text_that_repeats_itself(tmp_path):
    lines = tmp_path / "lines.txt"
    lines.write_text("The sun rose over the hill, and the sheep went to the water.\n" * 400)
    rates = {"lr": 1e-2, "probe": 12, "boundaries": "none", "batch": 8}
    how = dict(steps=30, scratch=SCRATCH, evaluation=JUDGED)
    out = train(tmp_path / "a", None, "kv_bias", lines, rates, {"start": "zero"}, **how)
    loss = curve(out).loss
    assert loss[0] == pytest.approx(math.log(4096), abs=0.3)
    assert loss[-1] < 3
    probes = out.result.convert.training.probes
    assert [probe.step for probe in probes] == [0, 12, 24]
    assert probes[0].loss > 8 > 5 > probes[-1].loss
    again = train(tmp_path / "b", None, "kv_bias", lines, rates, {"start": "zero"}, **how)
    assert all(torch.equal(x, weights(again.path)[name]) for name, x in weights(out.path).items())
    written = AutoModelForCausalLM.from_pretrained(out.path)
    assert written.config.model_type == "sink_llama"


def test_what_cannot_be_trained_is_refused_and_leaves_nothing_behind(model, demo, text, tmp_path, monkeypatch):
    def refused(error, match, loaded=model, kind="sink_logit", **recipe):
        with pytest.raises(error, match=match):
            run(recipe_of(kind, text, **recipe), loaded, output=tmp_path / "out")

    refused(UsageError, "no sink to replace; choose --start zero", None, scratch=SCRATCH)
    zero = {"sink": {"start": "zero"}, "scratch": SCRATCH}
    refused(UsageError, "no original to stay near", None, training={"loss": {"kl": 1}}, **zero)
    refused(UsageError, "random weights are worth nothing untrained", None, steps=0, **zero)
    refused(UsageError, "nothing to train", kind="none", training={"trained": "new"})
    refused(UsageError, "nothing to train", kind="softmax1", sink={"start": "zero"}, training={"trained": "new"})
    refused(UsageError, "training.alone: the mechanism none has nothing", kind="none", training={"alone": 1})
    refused(UsageError, "a row of the embedding", kind="sink_token", training={"alone": 1})
    refused(UsageError, "alone: 4 of 4 steps leave none .*; give more --steps", kind="kv_bias", training={"alone": 4})
    both = {"alone": 1, "trained": "new"}
    refused(UsageError, "learns alone throughout; add --set training.alone=0", kind="kv_bias", training=both)
    refused(UsageError, "unique: 24 tokens, and a sequence takes 24 and one to predict", training={"unique": 24})
    refused(UsageError, "nothing to learn", training={"loss": {"lm": 0}})
    refused(UsageError, "never trains; begin warm", sink={"start": "exact"}, training={"trained": "new"})
    refused(UsageError, "hides the first token, which sink_token keeps", kind="sink_token", training={"window": 8})
    refused(UsageError, "4 of 4 steps never reach the full rate", training={"warmup": 4})
    refused(UsageError, "there is no control; leave --no-control out", evaluation=JUDGED, fail_on=("control.loss<=9",))
    refused(UsageError, "nothing is trained", steps=0, evaluation=JUDGED, fail_on=("loss<=9",))
    for wrong, match in (
        ({"model_type": "lama"}, "scratch.model_type: lama is no model type; did you mean 'llama'"),
        ({"hiden_size": 8}, "scratch.hiden_size: llama has no such setting; did you mean 'hidden_size'"),
        ({"hidden_size": "big"}, "scratch: is no config of llama"),
        ({"num_attention_heads": -2}, "scratch: makes no model"),
    ):
        refused(UsageError, match, None, sink={"start": "zero"}, scratch=SCRATCH | wrong)
    olmo = LoadedModel(tiny("olmo2", {"vocab_size": 4096}), demo.tokenizer, "olmo", "in memory")
    refused(ModelError, f"training takes {', '.join(FAMILIES)}", olmo, kind="none", sink={"bos": "keep"})
    (tmp_path / "short.txt").write_text("Too short a text.")
    short = {"text": {"files": [str(tmp_path / "short.txt")]}, "batch": 2}
    refused(TextError, r"tokens, and a sequence takes .* and one to predict", training=short)
    with monkeypatch.context() as patched:
        patched.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=1000))
        refused(ModelError, "training keeps states of up to .* GB are free")
    assert [path.name for path in tmp_path.iterdir()] == ["short.txt"]


def test_documents_of_one_token_leave_a_step_nothing_to_predict(model, tmp_path):
    """Nothing stands in front of them, and they do not see each other."""
    (tmp_path / "ones.jsonl").write_text('{"text": "a"}\n' * 60)
    with pytest.raises(TextError, match=r"ones.jsonl: step 1 has nothing to predict, .* or training.boundaries none"):
        train(tmp_path / "out", model, "sink_logit", tmp_path / "ones.jsonl")
