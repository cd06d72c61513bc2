"""What headers tell of weights that do not fit their config, before torch is imported."""

import json

import pytest
from families import SHAPE, STREAMED
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from sinkctl.errors import ModelError
from sinkctl.model.files import check_checkpoint
from sinkctl.model.fits import LAYOUTS, check_fits
from sinkctl.model.settings import ModelSettings

OTHERS = {"gemma": {"head_dim": 16}, "gpt2": dict(n_embd=32, n_layer=2, n_head=4, n_positions=64, vocab_size=64)}
FAMILIES = {kind: more for kind, more in STREAMED.values() if kind in LAYOUTS} | OTHERS


@pytest.fixture
def written(tmp_path):
    """A folder of that family, its config as `config` has it and its weights without those that `lost` names."""

    def write(family: str, lost: tuple[str, ...] = (), renamed=lambda key: key, **config) -> str:
        own = {name: value for name, value in (SHAPE | FAMILIES[family]).items() if value is not None}
        own = FAMILIES[family] if family == "gpt2" else own
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **own))
        model.save_pretrained(tmp_path)
        said = json.loads((tmp_path / "config.json").read_text()) | config
        said = {name: value for name, value in said.items() if value != "left out"}
        (tmp_path / "config.json").write_text(json.dumps(said))
        (tmp_path / "tokenizer.json").write_text("{}")
        held = load_file(tmp_path / "model.safetensors")
        held = {renamed(key): x for key, x in held.items() if not any(part in key for part in lost)}
        save_file(held, tmp_path / "model.safetensors", {"format": "pt"})
        return str(tmp_path)

    return write


@pytest.mark.parametrize("family", sorted(LAYOUTS))
def test_every_family_fits_its_own_config_and_no_other(family, written):
    """Each size that the config says, one larger: as loading says it, in the same words."""
    check_checkpoint(ModelSettings(name=written(family)))
    names = ("n_embd", "vocab_size", "n_positions", "n_inner") if family == "gpt2" else (
        "hidden_size", "intermediate_size", "vocab_size", "num_key_value_heads", "head_dim")  # fmt: skip
    with open(f"{written(family)}/config.json") as file:
        config = json.load(file)
    told = [name for name in names if isinstance(config.get(name), int)]
    assert set(told) >= {"vocab_size", names[0]}
    for name in told:
        more = 4 if name == "hidden_size" else 1
        with pytest.raises(
            ModelError, match=r"in the file and .* by config\.json.*; one of the two belongs to another"
        ):
            check_checkpoint(ModelSettings(name=written(family, **{name: config[name] + more})))


@pytest.mark.parametrize("family", sorted(LAYOUTS))
def test_every_weight_of_a_layout_is_one_of_the_family(family, written):
    """Without each of them in one layer, it is missing; of a layer that is not counted, too."""
    layout, folder = LAYOUTS[family], written(family)
    kinds = {key.split(".", 3)[-1] for key in load_file(f"{folder}/model.safetensors")} & set(layout.of_layer)
    assert len(kinds) >= len(layout.of_layer) - 1, "OLMo-2 has no norm in front of attention"
    for kind in sorted(kinds):
        key = f"{layout.inside}{layout.layers}.1.{kind}"
        with pytest.raises(ModelError, match=f"{key} is not in the weights, and config.json asks for it"):
            check_checkpoint(ModelSettings(name=written(family, lost=(key,))))


def test_what_is_said_is_what_loading_says(written, monkeypatch):
    """Of a Llama: other shapes, fewer layers and more, no embedding, a head that is not there."""
    from sinkctl.model.load import load

    monkeypatch.setattr("sinkctl.model.files.check_tokenizer", lambda settings: None)
    wrongs = [
        {"intermediate_size": 52}, {"hidden_size": 48}, {"vocab_size": 65}, {"num_key_value_heads": 4},
        {"num_hidden_layers": 3}, {"num_hidden_layers": 1}, {"lost": ("lm_head",)}, {"lost": ("layers.1.mlp",)},
        {"num_attention_heads": 8, "head_dim": "left out"},
    ]  # fmt: skip
    for wrong in wrongs:
        folder, said = written("llama", **wrong), []
        for check in (lambda *_: None, check_fits):
            with monkeypatch.context() as patched:
                patched.setattr("sinkctl.model.files.check_fits", check)
                with pytest.raises(ModelError) as raised:
                    load(ModelSettings(name=folder, device="cpu"))
                said.append(str(raised.value))
        assert said[0] == said[1], wrong


@pytest.mark.parametrize(
    "change",
    [
        {"intermediate_size": "left out"}, {"vocab_size": "left out", "hidden_size": "left out"},
        {"num_hidden_layers": "left out"}, {"model_type": "phi3"}, {"architectures": ["LlamaModel"]},
        {"auto_map": {"AutoModelForCausalLM": "own.Own"}}, {"quantization_config": {"quant_method": "fp8"}},
        {"renamed": lambda key: f"language_model.{key}"}, {"renamed": lambda key: key.replace("gate_proj", "w1")},
        {"text_config": {"hidden_size": 1}}, {"tie_word_embeddings": True, "lost": ("lm_head",)},
        {"tie_word_embeddings": True, "lost": ("embed_tokens",)}, {"num_key_value_heads": None},
        {"hidden_size": "32", "vocab_size": -1, "intermediate_size": True},
    ],
)  # fmt: skip
def test_what_is_not_known_for_sure_is_left_to_loading(change, written):
    check_checkpoint(ModelSettings(name=written("llama", **change)))


def test_sizes_of_a_class_are_not_taken_from_another(written):
    """Where nothing is said, Qwen3's heads are 128 wide, Llama's a share of the channels."""
    check_checkpoint(ModelSettings(name=written("qwen3", head_dim="left out")))
    with pytest.raises(ModelError, match=r"k_proj\.weight is 16×32 in the file and 12×32 by config\.json"):
        check_checkpoint(ModelSettings(name=written("llama", head_dim="left out", num_attention_heads=5)))


def test_what_a_layer_that_predicts_further_tokens_holds_is_not_asked_of_the_others(written):
    """An OLMo-2 has no norm in front of attention, and transformers has no place for that layer."""
    ahead = {"num_hidden_layers": 1, "num_nextn_predict_layers": 1}
    front = ("layers.1.post_attention_layernorm", "layers.1.input_layernorm")
    folder = written("olmo2", renamed=lambda key: key.replace(*front), **ahead)
    check_checkpoint(ModelSettings(name=folder))
    _, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert "model.layers.1.input_layernorm.weight" in report["unexpected_keys"]


def test_a_damaged_depth_is_told_in_no_time(written):
    with pytest.raises(ModelError, match=r"layers\.10\.input_layernorm\.weight is not in the weights"):
        check_checkpoint(ModelSettings(name=written("llama", num_hidden_layers=10**12)))
