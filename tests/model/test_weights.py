"""Weights that are missing, cut short, of another shape or not finite: one line names the first of them."""

import json

import pytest
import torch
from families import SHAPE
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from sinkctl.errors import ModelError
from sinkctl.model.load import load
from sinkctl.model.settings import ModelSettings
from sinkctl.model.weights import check_finite

DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def checkpoint(tmp_path, stories):
    """Two layers of Llama, with a tokenizer; `(change of the config, change of the weights)` → what is loaded."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SHAPE | {"vocab_size": 512}))
    model.save_pretrained(tmp_path)
    stories.tokenizer.save_pretrained(tmp_path)

    def changed(config: dict | None = None, weights: dict | None = None, dtype: str = "auto"):
        said = json.loads((tmp_path / "config.json").read_text()) | (config or {})
        (tmp_path / "config.json").write_text(json.dumps(said))
        held = load_file(tmp_path / "model.safetensors") | (weights or {})
        save_file({k: x for k, x in held.items() if x is not None}, tmp_path / "model.safetensors", {"format": "pt"})
        return load(ModelSettings(name=str(tmp_path), device="cpu", dtype=dtype))

    return changed


@pytest.mark.parametrize(
    ("values", "said"),
    [([float("nan")], "has 1 NaN of 1,536"), ([float("inf"), -float("inf")], "has 2 infinite of 1,536"),
     ([float("nan"), float("inf"), float("nan")], "has 2 NaN and 1 infinite of 1,536")],
)  # fmt: skip
def test_weights_that_are_not_finite_are_named_and_counted(checkpoint, values, said):
    weight = torch.zeros(32, 48)
    weight[3, : len(values)] = torch.tensor(values)
    other = {"model.norm.weight": torch.full((32,), float("nan"))}
    with pytest.raises(ModelError, match=rf"{DOWN} {said} values \(and 1 more\); the checkpoint is damaged"):
        checkpoint(weights={DOWN: weight, **other})


def test_weights_too_large_for_float16_are_no_damage_of_the_checkpoint(checkpoint):
    with pytest.raises(ModelError, match="1,536 infinite of 1,536 values; float16 ends at 65,504, try --dtype float32"):
        checkpoint(weights={DOWN: torch.full((32, 48), 1e5)}, dtype="float16")
    checkpoint(weights={DOWN: torch.full((32, 48), 1e5)}, dtype="float32")


def test_finite_weights_whose_sum_is_not_and_those_without_plain_values_pass():
    model = nn.Module()
    model.large = nn.Parameter(torch.full((8,), 6e4, dtype=torch.float16))
    model.quantized = nn.Parameter(torch.ones(4, dtype=torch.int8), requires_grad=False)
    model.elsewhere = nn.Parameter(torch.empty(4, device="meta"))
    check_finite("it", model)
    model.last = nn.Parameter(torch.tensor(float("nan")))
    with pytest.raises(ModelError, match="it: last has 1 NaN of 1 values;"):
        check_finite("it", model)


def test_a_config_of_other_shapes_is_told_from_the_file(checkpoint):
    said = r"layers\.0\.mlp\.down_proj\.weight is 32×48 in the file and 32×52 by config\.json \(and 5 more\)"
    with pytest.raises(ModelError, match=said):
        checkpoint({"intermediate_size": 52})


def test_a_config_of_fewer_layers_is_refused_and_one_of_more(checkpoint):
    with pytest.raises(ModelError, match=r"layers\.2\..* is not in the weights \(and 8 more\)"):
        checkpoint({"num_hidden_layers": 3})
    with pytest.raises(ModelError, match=r"hold model\.layers\.1, .* 1 of model\.layers \(num_hidden_layers\)"):
        checkpoint({"num_hidden_layers": 1})
    # DeepSeek and GLM store the layer that predicts further tokens behind the last.
    assert "model.layers.1" in checkpoint({"num_hidden_layers": 1, "num_nextn_predict_layers": 1}).choices["weights"]


def test_a_head_that_is_neither_stored_nor_shared_is_said_to_be_so(checkpoint):
    with pytest.raises(ModelError, match=r"lm_head\.weight is not in the weights.*tie_word_embeddings: false"):
        checkpoint(weights={"lm_head.weight": None})
    assert "weights" not in checkpoint({"tie_word_embeddings": True}).choices


def test_tensors_that_the_class_has_no_place_for_are_noted(checkpoint):
    biases = {f"model.layers.{n}.self_attn.q_proj.bias": torch.zeros(32) for n in (0, 1)}
    said = checkpoint(weights=biases | {"vision.patches.weight": torch.zeros(3)}).choices["weights"]
    assert said.startswith("3 tensors left out: LlamaForCausalLM has no place for ")
    assert said.endswith("model.layers.*.self_attn.q_proj.bias, vision")


@pytest.mark.parametrize(
    ("damage", "said"),
    [(lambda shard: shard.unlink(), r"-00002-of-\d+\.safetensors is missing, and .*index\.json names"),
     (lambda shard: shard.write_bytes(shard.read_bytes()[:2000]), r"-00002-of-\d+\..* is damaged or cut short"),
     (lambda shard: shard.write_text("version https://git-lfs.github.com/spec/v1\n"), "is a Git LFS pointer.*lfs pull"),
     (lambda shard: (shard.parent / "model.safetensors.index.json").unlink(), r"index\.json is missing, which says"),
     (lambda shard: (shard.parent / "model.safetensors.index.json").write_text("{}"), r"index\.json is damaged")],
    ids=["missing", "cut short", "pointer", "no index", "damaged index"],
)  # fmt: skip
def test_a_shard_that_is_not_whole_is_named(tmp_path, stories, damage, said):
    stories.model.save_pretrained(tmp_path, max_shard_size="200KB")
    damage(sorted(tmp_path.glob("*.safetensors"))[1])
    with pytest.raises(ModelError, match=said):
        load(ModelSettings(name=str(tmp_path), device="cpu"))


def test_an_index_left_beside_whole_weights_is_not_asked_about(tmp_path, stories):
    stories.model.save_pretrained(tmp_path)
    stories.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"model.norm.weight": "gone.safetensors"}}')
    load(ModelSettings(name=str(tmp_path), device="cpu"))
