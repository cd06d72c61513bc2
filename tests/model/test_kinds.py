"""Decoders, encoders and vision transformers: told apart, loaded without what is unused, refused by name."""

import shutil
import sys

import huggingface_hub
import pytest
import torch
import transformers
from places import DATA
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModel, BertLMHeadModel, PreTrainedTokenizerFast
from transformers import AutoModelForImageClassification as WithClasses
from transformers import AutoModelForMaskedLM as WithWords

from sinkctl.errors import ModelError
from sinkctl.model.kinds import kind_of, leading_tokens
from sinkctl.model.load import load
from sinkctl.model.settings import ModelSettings

SHAPE = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
TEXT = dict(**SHAPE, vocab_size=16, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2)
IMAGE = dict(**SHAPE, image_size=32, patch_size=8)
# model type → (settings, class saved, kind, tokens in front of the patches)
MODELS = {
    "bert": (TEXT, WithWords, "encoder", []),
    "roberta": (TEXT, WithWords, "encoder", []),
    "electra": (TEXT, WithWords, "encoder", []),
    "modernbert": (dict(**TEXT, cls_token_id=1, sep_token_id=2), WithWords, "encoder", []),
    "distilbert": (dict(vocab_size=16, dim=32, hidden_dim=48, n_layers=2, n_heads=4), WithWords, "encoder", []),
    "vit": (IMAGE, WithClasses, "vision", ["[CLS]"]),
    "deit": (IMAGE, AutoModel, "vision", ["[CLS]", "[DIST]"]),
    "dinov2": (IMAGE, WithClasses, "vision", ["[CLS]"]),
    "dinov2_with_registers": (
        dict(**IMAGE, num_register_tokens=2), WithClasses, "vision", ["[CLS]", "[REG 1]", "[REG 2]"]
    ),
    "siglip_vision_model": (IMAGE, AutoModel, "vision", []),
}  # fmt: skip
ALL = ("decoder", "encoder", "vision")


def saved(folder, model) -> ModelSettings:
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(folder)
    return ModelSettings(name=str(folder), device="cpu")


def tiny(model_type: str, settings: dict, auto_class):
    torch.manual_seed(0)
    return auto_class.from_config(AutoConfig.for_model(model_type, **settings)).eval()


@pytest.mark.parametrize("model_type", MODELS)
@torch.no_grad()
def test_encoders_and_vision_models_load_as_the_stock_model_without_its_head(model_type, tmp_path):
    settings, auto_class, kind, leading = MODELS[model_type]
    stock = tiny(model_type, settings, auto_class)
    where = saved(tmp_path, stock)
    loaded = load(where, ALL)
    assert loaded.kind == kind
    assert (loaded.tokenizer is None) == (kind == "vision")
    assert not any("pooler" in name for name, _ in loaded.model.named_modules())
    assert leading_tokens(loaded.model) == leading
    inputs = {"input_ids": torch.arange(12)[None]} if kind == "encoder" else {"pixel_values": torch.randn(1, 3, 32, 32)}
    hidden = loaded.model(**inputs).last_hidden_state
    torch.testing.assert_close(hidden, stock.base_model(**inputs).last_hidden_state)
    assert kind == "encoder" or hidden.shape[1] == len(leading) + 16
    with pytest.raises(ModelError, match=rf"is an? {kind}.*\({model_type}\).*`sinkctl measure`"):
        load(where)


def test_bert_with_causal_attention_is_a_decoder(tmp_path):
    config = AutoConfig.for_model("bert", **TEXT, is_decoder=True)
    loaded = load(saved(tmp_path, BertLMHeadModel(config)))
    assert (loaded.kind, type(loaded.model)) == ("decoder", BertLMHeadModel)
    config.is_decoder = False
    assert kind_of(config) == "encoder"


@pytest.mark.parametrize(
    ("model_type", "word"),
    [("time_series_transformer", "encoder-decoder of neither"), ("wav2vec2", "neither"), ("clip", "neither"),
     ("resnet", "neither"), ("vit_mae", "patches at random")],
)  # fmt: skip
def test_other_architectures_are_refused_with_what_is_taken(model_type, word):
    with pytest.raises(ModelError, match=rf"{model_type}.*{word}.*sinkctl takes decoders.*vision"):
        kind_of(AutoConfig.for_model(model_type))


def test_of_multimodal_models_those_are_decoders_that_transformers_loads_as_such():
    assert kind_of(AutoConfig.for_model("gemma3")) == "decoder"
    with pytest.raises(ModelError, match=r"llava\) takes images and text.*save its language model"):
        kind_of(AutoConfig.for_model("llava"))


def test_only_weights_after_the_last_block_may_be_missing(tmp_path):
    where = saved(tmp_path, tiny("siglip_vision_model", IMAGE, AutoModel))
    weights = load_file(tmp_path / "model.safetensors")
    of_head = [name for name in weights if "head." in name]
    assert of_head
    for name in of_head:
        del weights[name]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    assert load(where, ALL).kind == "vision"
    of_block = next(name for name in weights if "layers.1" in name)
    del weights[of_block]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"layers\.1\..* is not in the weights"):
        load(where, ALL)


def test_a_vision_model_brings_its_image_processor_where_there_is_pillow(tmp_path, monkeypatch):
    where = saved(tmp_path, tiny("vit", IMAGE, AutoModel))
    assert load(where, ALL).processor is None
    size = {"height": 32, "width": 32}
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}'
    )
    processor = load(where, ALL).processor
    assert dict(processor.size) == size
    assert processor.backend == "pil"
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert load(where, ALL).processor is None


def test_a_hub_id_is_known_by_its_commit(tmp_path, monkeypatch):
    """From the Hub's own cache, without a network: the commit is the fingerprint, as a branch moves on."""
    commit, at = "0123456789abcdef0123456789abcdef01234567", tmp_path / "models--someone--something"
    shutil.copytree(DATA / "stories260K", at / "snapshots" / commit)
    (at / "refs").mkdir()
    (at / "refs/main").write_text(commit)
    for module in (huggingface_hub.constants, transformers.utils.hub.constants):
        monkeypatch.setattr(module, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert load("someone/something").fingerprint == commit
