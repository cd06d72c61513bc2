"""Of multimodal checkpoints the text decoder alone counts; several residual streams are measured as they are."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from families import SHAPE, SLIDING
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from sinkctl import convert, measure, stream
from sinkctl.errors import ModelError
from sinkctl.metrics.massive_cost import Elements, intervened
from sinkctl.metrics.observe import blocks_of, observe
from sinkctl.metrics.samples import laid_out
from sinkctl.model.load import load
from sinkctl.model.parts import text_modules
from sinkctl.model.settings import ModelSettings
from sinkctl.tasks.bench.costs import weight_bytes

STORIES = Path(__file__).parent.parent / "data/stories.txt"
# A tower as deep as the decoder, and with fewer positions than a sample has tokens.
VISION = dict(
    hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
)
GEMMA = dict(SHAPE, vocab_size=512, head_dim=16, query_pre_attn_scalar=16, **SLIDING)
DELTA = dict(linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=8, linear_value_head_dim=8)
TOWER_4 = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, head_dim=8)
# model type → (its text config, its vision config, the rest)
MULTIMODAL = {
    "gemma3": (GEMMA, VISION, dict(mm_tokens_per_image=4, image_token_index=500)),
    "gemma4": (
        dict(SHAPE, vocab_size=512, head_dim=8, global_head_dim=16, num_kv_shared_layers=0, **SLIDING)
        | dict(hidden_size_per_layer_input=8, vocab_size_per_layer_input=512),
        dict(TOWER_4, num_key_value_heads=2),
        dict(audio_config=None),
    ),
    "qwen3_5": (
        dict(SHAPE, vocab_size=512, head_dim=8, layer_types=["linear_attention", "full_attention"], **DELTA),
        dict(depth=2, hidden_size=16, intermediate_size=24, num_heads=2, out_hidden_size=32),
        {},
    ),
}
ALTUP = GEMMA | dict(
    hidden_size_per_layer_input=8, vocab_size_per_layer_input=512, altup_num_inputs=3, laurel_rank=4,
    num_kv_shared_layers=1, activation_sparsity_pattern=[0.0, 0.0],
    layer_types=["full_attention"] * 2,
)  # fmt: skip


@pytest.fixture
def both(tmp_path, stories):
    """model type → (the whole checkpoint, its text decoder by itself), of the same weights."""

    def saved(model_type: str) -> list[ModelSettings]:
        torch.manual_seed(0)
        text, vision, rest = MULTIMODAL[model_type]
        config = AutoConfig.for_model(model_type, text_config=text, vision_config=vision, **rest)
        whole = AutoModelForImageTextToText.from_config(config)
        alone = AutoModelForCausalLM.from_config(config.text_config)
        alone.model.load_state_dict(whole.model.language_model.state_dict())
        alone.lm_head.load_state_dict(whole.lm_head.state_dict())
        for name, model in (("whole", whole), ("alone", alone)):
            model.to(torch.bfloat16).save_pretrained(tmp_path / name)
            stories.tokenizer.save_pretrained(tmp_path / name)
        return [ModelSettings(name=str(tmp_path / name), device="cpu") for name in ("whole", "alone")]

    return saved


def of_weights(notes: list[str]) -> list[str]:
    """Those that are not on the tokenizer, whose class goes by the model type."""
    return [note for note in notes if "tokenizer" not in note]


@pytest.mark.parametrize("model_type", MULTIMODAL)
def test_a_multimodal_checkpoint_has_the_numbers_of_its_text_decoder(model_type, both, stories):
    one, two = (load(settings) for settings in both(model_type))
    one.tokenizer = two.tokenizer = stories.tokenizer  # transformers may choose its class by the model type
    assert f"the vision part of {model_type} is " in one.choices["decoder"]
    assert "decoder" not in two.choices
    assert weight_bytes(one.model) == weight_bytes(two.model)
    measured = dict(kinds=("natural",), samples=1, length=40, bos="on", cost=dict(run=False))
    found = []
    for loaded in (one, two):
        [score] = measure(loaded, **measured).result.measure.checkpoints
        assert score.inputs[0].layers
        nll = stream(STORIES, model=loaded, policies="4+8", limit=40).nll["4+8"]
        found.append(
            ([layer.model_dump() for layer in score.inputs[0].layers], score.verdict, of_weights(score.notes), nll)
        )
    (*whole, nll), (*alone, nll_alone) = found
    assert whole == alone
    assert np.array_equal(nll, nll_alone)


def test_a_conversion_keeps_the_other_parts_and_says_so(both, tmp_path):
    settings, _ = both("gemma3")
    (tmp_path / "whole" / "preprocessor_config.json").write_text('{"size": 28}')
    before = load(settings)
    asked = dict(samples=1, window=16, evaluation=dict(run=False))
    done = convert(settings.name, to="sink_token", output=tmp_path / "out", dtype="float32", **asked)
    assert done.result.notes == ["The vision part is written as it was; the conversion is of the text decoder alone."]
    assert (tmp_path / "out" / "preprocessor_config.json").read_text() == '{"size": 28}'
    after = load(ModelSettings(name=str(tmp_path / "out"), device="cpu"))
    assert after.stored_dtype == before.stored_dtype == torch.bfloat16
    for name, weight in before.model.model.vision_tower.named_parameters():
        assert torch.equal(after.model.model.vision_tower.get_parameter(name), weight)


def test_a_part_that_its_class_does_not_load_is_said_to_be_left_out(both, tmp_path):
    settings, _ = both("qwen3_5")
    asked = dict(samples=1, window=16, evaluation=dict(run=False))
    done = convert(settings.name, to="none", output=tmp_path / "out", **asked)
    said = of_weights(done.result.notes)
    assert said[0].startswith("What is written is the text decoder alone (qwen3_5_text: the vision part")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "qwen3_5_text"


def test_a_sink_token_is_refused_where_layers_look_tokens_up(both, tmp_path):
    settings, _ = both("gemma4")
    with pytest.raises(ModelError, match=r"gemma4.* looks tokens up in every layer too"):
        convert(settings.name, to="sink_token", output=tmp_path / "out", samples=1, window=16)


def test_a_tower_inside_the_decoder_is_told_by_its_config():
    config = AutoConfig.for_model("git", vision_config=VISION, **{**SHAPE, "num_key_value_heads": None})
    model = AutoModelForCausalLM.from_config(config)
    assert not any(name.startswith("git.image_encoder") for name in text_modules(model))
    assert blocks_of(model) is model.git.encoder.layer


class Seen:
    """A measurer that keeps what it is told."""

    def __init__(self):
        self.received, self.states = {}, {}

    def attention(self, layer, view):
        self.received[layer] = view.sums.received_BHS

    def block(self, layer, view):
        self.states[layer] = view.h_NTC

    def routed(self, *_):
        raise AssertionError("no experts here")


@torch.no_grad()
def test_several_residual_streams_are_measured_as_the_stock_model_has_them():
    torch.manual_seed(0)
    config = AutoConfig.for_model("gemma3n_text", **ALTUP)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    ids_NT = torch.randint(3, 500, (2, 20))
    stock = []
    hooks = [block.register_forward_hook(lambda _, __, out: stock.append(out.clone())) for block in blocks_of(model)]
    maps = model(input_ids=ids_NT, output_attentions=True).attentions
    for hook in hooks:
        hook.remove()
    samples, seen = laid_out(list(ids_NT), model.device), Seen()
    observe(model, samples, seen)
    for layer in range(2):
        torch.testing.assert_close(seen.received[layer], maps[layer].sum(2))
        torch.testing.assert_close(seen.states[layer], torch.cat(list(stock[layer]), dim=-1))  # [S, N, T, C]

    def edit(_, __, out):
        out = out.clone()
        out[1, :, 0, 5] = 7.0
        return out

    hook = blocks_of(model)[0].register_forward_hook(edit)
    by_hand = model(input_ids=ids_NT).logits
    hook.remove()
    with intervened(model, Elements(0, [(0, 32 + 5)], massive=False), torch.tensor([7.0])):
        torch.testing.assert_close(model(input_ids=ids_NT).logits, by_hand, rtol=0, atol=0)
    assert not torch.allclose(model(input_ids=ids_NT).logits, by_hand)
