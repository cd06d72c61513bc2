"""What serves training from scratch alone: refused for a checkpoint, trained and written from random weights."""

import math

import numpy as np
import pytest
import torch
from families import tiny
from test_training import SCRATCH
from training_runs import JUDGED, curve, recipe_of, train
from transformers import AutoModelForCausalLM

from sinkctl.errors import UsageError
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import ConvertRecipe
from sinkctl.sinks import SINKS, LayerShape
from sinkctl.tasks.convert import run
from sinkctl.tasks.convert.training.corpus import Corpus
from sinkctl.tasks.convert.training.packing import NO_TARGET, Body, after_prefix, packed

STILL = SCRATCH | {"rope_parameters": {"rope_type": "linear", "factor": 1e30, "rope_theta": 1e4}}
ALONE = sorted(kind for kind, sink in SINKS.items() if sink.from_scratch)
SHAPE = LayerShape(heads=2, kv_heads=1, width=16, value_width=16, hidden=32)


@pytest.fixture(scope="module")
def text(book, tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "novel.txt"
    path.write_text(book[:20_000])
    return path


@pytest.mark.parametrize("kind", ALONE)
def test_no_checkpoint_begins_with_it(kind, text, tmp_path):
    with pytest.raises(UsageError, match=f"--to {kind}: serves training from scratch alone, .* recipe with `scratch`"):
        run(recipe_of(kind, text), output=tmp_path / "out")


@pytest.mark.parametrize(
    ("kind", "sink"),
    [(kind, {}) for kind in ALONE] + [("kernel", {"form": "mlp"}), ("positions", {"form": "sinusoidal"})],
)
def test_random_weights_learn_with_it_and_are_written_as_they_are(kind, sink, text, tmp_path):
    rates = {"lr": 1e-2, "probe": 2, "weight_decay": 0.1, "optimizer": "muon"}
    how = dict(steps=2, scratch=STILL, evaluation=JUDGED)
    sink = sink | ({"channels": 5, "norm": 2.0} if kind == "fixed_kv_bias" else {})
    out = train(tmp_path / "out", None, kind, text, rates, sink, **how)
    stock = AutoModelForCausalLM.from_pretrained(out.path, attn_implementation="eager")
    assert stock.config.sink["kind"] == kind
    line = next(line for line in out.result.convert.checkpoints if line.checkpoint == "converted")
    assert line.perplexity > 1
    begun = SINKS[kind](**sink).starts([SHAPE, SHAPE])[0]
    layer = dict(stock.get_decoder().layers[0].self_attn.sink.named_parameters())
    assert layer.keys() == begun.keys()
    for name, parameter in layer.items():
        fixed = name == "value" or sink.get("form") == "sinusoidal"
        assert torch.equal(parameter, begun[name]) is fixed, name


def test_a_linear_rope_of_an_endless_factor_is_no_position_at_all(text, tmp_path):
    """Without positions and beyond a causal mask, the last query of two texts of the same tokens sees the same."""
    out = train(tmp_path / "out", None, "none", text, {"lr": 1e-2}, steps=1, scratch=STILL | {"num_hidden_layers": 1})
    model = AutoModelForCausalLM.from_pretrained(out.path)
    one, other = torch.tensor([[4, 8, 15, 16, 23]]), torch.tensor([[16, 4, 15, 8, 23]])
    assert torch.allclose(model(one).logits[0, -1], model(other).logits[0, -1], atol=1e-5)
    turning = AutoModelForCausalLM.from_pretrained(
        out.path, rope_parameters={"rope_type": "default", "rope_theta": 1e4}
    )
    assert not torch.allclose(turning(one).logits[0, -1], turning(other).logits[0, -1], atol=1e-5)


def test_unique_tokens_are_the_first_of_the_text_and_its_documents():
    corpus = Corpus(np.arange(100), np.array([0, 30, 60]), "books")
    assert corpus.first(40).tokens.tolist() == list(range(40))
    assert corpus.first(40).starts.tolist() == [0, 30]
    assert corpus.first(40).name == "books (its first 40 tokens)"
    assert corpus.first(None) is corpus.first(100) is corpus


def test_what_follows_a_prefix_alone_is_predicted():
    pack = packed([Body(np.arange(10, 16), (0,))], (1,), "none")  # BOS 1, then 10 … 15
    assert after_prefix(pack, 3).target_BT.tolist() == [[NO_TARGET, NO_TARGET, 12, 13, 14, 15, NO_TARGET]]
    assert after_prefix(pack, None) is pack


def test_a_prefix_is_for_plain_models_from_scratch_and_leaves_something_to_predict(text, tmp_path):
    def refused(match, training, kind="none", **recipe):
        rates = {"prefix": 8, "boundaries": "none", "window": "full"} | training
        with pytest.raises(UsageError, match=f"training.prefix: {rates['prefix']}: .*{match}"):
            run(recipe_of(kind, text, rates, {"start": "zero"} if kind == "kv_bias" else {}, **recipe), output=tmp_path)

    refused("see what comes before alone; give a recipe with `scratch`", {})
    refused("take sink none, not kv_bias", {}, "kv_bias", scratch=SCRATCH)
    refused("give training.boundaries bos or none", {"boundaries": "mask"}, scratch=SCRATCH)
    refused("leaves nothing to predict of 24 tokens", {"prefix": 24}, scratch=SCRATCH)
    refused("leaves nothing to predict of 32 tokens", {"prefix": 32, "length": "auto"}, scratch=SCRATCH)


def test_random_weights_learn_with_a_prefix(text, tmp_path):
    rates = {"lr": 1e-2, "prefix": 8, "boundaries": "none", "window": "full"}
    out = train(tmp_path / "out", None, "none", text, rates, steps=6, scratch=SCRATCH)
    assert "a mask that shows a prefix" in out.result.convert.training.attention
    loss = curve(out).loss
    assert loss[0] == pytest.approx(math.log(4096), abs=0.3)
    assert loss[-1] < loss[0] - 0.1


def test_sequences_longer_than_there_are_positions_are_refused(demo, text, tmp_path):
    opt = dict(model_type="opt", hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=2)
    opt |= {"word_embed_proj_dim": 32, "max_position_embeddings": 128}

    def refused(match, length, kind="positions", sink=None, **recipe):
        with pytest.raises(UsageError, match=match):
            train(tmp_path / "out", None, kind, text, {"length": length}, sink, **recipe)

    shorter = "the model has 128 positions; give 128, or more in"
    refused(f"--length 129: {shorter} sink.length", 129, sink={"length": 128}, scratch=STILL)
    refused(f"--length 129: {shorter} scratch.max_position_embeddings", 129, "none", scratch=opt)
    judged = "has 24 positions, and samples of 64 tokens judge it; give --no-eval, or more in sink.length"
    refused(judged, 24, sink={"length": 24}, scratch=STILL, evaluation=JUDGED)
    gpt2 = LoadedModel(tiny("gpt2", {"vocab_size": 4096, "n_positions": 128}), demo.tokenizer, "gpt2", "in memory")
    judged = {"evaluation": JUDGED | {"length": 129}, "calibration": {"samples": 2, "window": 16}}
    with pytest.raises(UsageError, match=r"has 128 positions, and samples of 129 tokens judge it; give 128$"):
        run(ConvertRecipe.model_validate({"sink": {"kind": "sink_token"}, **judged}), gpt2, output=tmp_path / "out")
