"""`sinkctl measure --images` of multimodal decoders: tiny random Gemma 3, LLaVA and Qwen2-VL, and planted sinks.

L layers, H heads, T tokens, S keys.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModelForImageTextToText,
    Gemma3Processor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.masking_utils import eager_mask
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from sinkctl.errors import ModelError
from sinkctl.model.load import LoadedModel, load
from sinkctl.model.settings import ModelSettings
from sinkctl.recipe.schema import InputSettings, MeasureRecipe
from sinkctl.report.html import html
from sinkctl.tasks.measure import run
from sinkctl.tasks.measure.inputs import inputs

SHAPE = dict(
    hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
    vocab_size=64, pad_token_id=0, bos_token_id=2, eos_token_id=3, initializer_range=0.3,
)  # fmt: skip
VISION = dict(
    hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
)
SPECIAL = ["[PAD]", "[UNK]", "<bos>", "<eos>", "<begin>", "<image>", "<end>", "<video>"]
IMAGE = 5
PLACES = ["image 0,0", "image 0,1", "image 1,0", "image 1,1"]
LENGTHS = (21, 30)  # words of the texts behind the two images


def tokenizer(**named: str) -> PreTrainedTokenizerFast:
    words = [*SPECIAL, *(f"w{number}" for number in range(56))]
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    own = dict(pad_token="[PAD]", unk_token="[UNK]", bos_token="<bos>", eos_token="<eos>")
    return PreTrainedTokenizerFast(tokenizer_object=backend, **own, extra_special_tokens=named)


def gemma3(folder: Path) -> Path:
    """Tokens of an image see each other both ways; the first layer has a window of 8."""
    layers = dict(sliding_window=8, layer_types=["sliding_attention", "full_attention"], query_pre_attn_scalar=8)
    config = AutoConfig.for_model(
        "gemma3", text_config=SHAPE | layers, vision_config=VISION, mm_tokens_per_image=4, boi_token_index=4,
        eoi_token_index=6, image_token_index=IMAGE,
    )  # fmt: skip
    named = dict(boi_token="<begin>", image_token="<image>", eoi_token="<end>")
    prepared = Gemma3ImageProcessorPil(size=dict(height=16, width=16))
    return saved(folder, config, Gemma3Processor(prepared, tokenizer(**named), image_seq_length=4))


def llava(folder: Path, **text) -> Path:
    config = AutoConfig.for_model(
        "llava", text_config=SHAPE | dict(model_type="llama") | text, image_token_id=IMAGE, image_seq_length=4,
        vision_config=VISION | dict(model_type="clip_vision_model"),
    )  # fmt: skip
    prepared = CLIPImageProcessorPil(size=dict(shortest_edge=16), crop_size=dict(height=16, width=16))
    processor = LlavaProcessor(
        prepared, tokenizer(image_token="<image>"), patch_size=8, vision_feature_select_strategy="default",
        image_token="<image>", num_additional_image_tokens=1,
    )  # fmt: skip
    return saved(folder, config, processor)


def saved(folder: Path, config, processor) -> Path:
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


class QwenProcessor:
    """As Qwen2-VL's own, which wants torchvision for videos: so many image tokens as its grid has after merging."""

    image_token = "<begin> <image> <end>"

    def __init__(self):
        self.images = Qwen2VLImageProcessorPil(
            patch_size=8, merge_size=2, temporal_patch_size=2, size=dict(shortest_edge=256, longest_edge=4096)
        )
        self.tokenizer = tokenizer()

    def __call__(self, text: str, images: list, return_tensors: str) -> dict[str, Tensor]:
        seen = self.images(images=images, return_tensors=return_tensors)
        count = int(seen["image_grid_thw"][0].prod()) // 4
        whole = text.replace("<image>", " ".join(["<image>"] * count))
        ids = self.tokenizer(whole, return_tensors=return_tensors, add_special_tokens=False)["input_ids"]
        return {"input_ids": ids, "mm_token_type_ids": (ids == IMAGE).long(), **seen}


def qwen(folder: Path) -> LoadedModel:
    rope = dict(rope_type="default", mrope_section=[1, 1, 2], rope_theta=10000.0)
    config = AutoConfig.for_model(
        "qwen2_vl", text_config=SHAPE | dict(rope_parameters=rope), image_token_id=IMAGE, video_token_id=7,
        vision_start_token_id=4, vision_end_token_id=6, vision_config=dict(
            depth=2, embed_dim=16, num_heads=2, hidden_size=32, mlp_ratio=2, patch_size=8, spatial_merge_size=2,
            temporal_patch_size=2,
        ),
    )  # fmt: skip
    torch.manual_seed(0)
    model, processor = AutoModelForImageTextToText.from_config(config).double().eval(), QwenProcessor()
    return LoadedModel(model, processor.tokenizer, "qwen2_vl", "in memory", kind="multimodal", processor=processor)


def opened(folder: Path) -> LoadedModel:
    return load(ModelSettings(name=str(folder), device="cpu", dtype="float64"), ("decoder", "multimodal"))


@pytest.fixture
def files(tmp_path) -> tuple[str, ...]:
    """Two images, 16 × 16 and 16 × 32, and two texts."""
    draw = np.random.default_rng(0)
    for number, width in enumerate((16, 32)):
        Image.fromarray(draw.integers(0, 256, (16, width, 3), np.uint8)).save(tmp_path / f"{number}.png")
    texts = [" ".join(f"w{n}" for n in draw.integers(0, 56, length)) for length in LENGTHS]
    (tmp_path / "texts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return (str(tmp_path / "0.png"), str(tmp_path / "1.png"), str(tmp_path / "texts.jsonl"))


def recipe(files: tuple[str, ...], **changes) -> MeasureRecipe:
    return MeasureRecipe(input=InputSettings(files=files, samples=2, length=40), **changes)


@torch.no_grad()
def stock_maps(loaded: LoadedModel, given: dict[str, Tensor]) -> Tensor:
    """[L, H, T, S] of the whole model's eager forward pass."""
    loaded.model.set_attn_implementation("eager")
    inputs = {name: x.double() if x.is_floating_point() else x for name, x in given.items()}
    maps = torch.stack(loaded.model(**inputs, output_attentions=True, use_cache=False).attentions)[:, 0]
    loaded.model.set_attn_implementation("sdpa")
    return maps


@pytest.mark.parametrize("family", [gemma3, llava, qwen])
def test_kinds_of_keys_and_alpha_are_those_of_the_stock_maps(family, files, tmp_path):
    """α: over the queries that see a key; shares: of the queries behind the image."""
    made = family(tmp_path / "model")
    loaded = made if isinstance(made, LoadedModel) else opened(made)
    asked = recipe(files)
    shown, outcome = inputs(asked, loaded)[0], run(asked, loaded)
    (score,) = outcome.result.measure.checkpoints[0].inputs
    alphas, masses = [], []
    for given in shown.given:
        map_LHTS, image_S = stock_maps(loaded, given), given["input_ids"][0] == IMAGE
        alphas.append(map_LHTS.sum(2) / (map_LHTS[:, 0] > 0).sum(1)[:, None].clamp(min=1))
        behind = map_LHTS[:, :, int(image_S.nonzero()[-1]) + 1 :].mean(2)
        first, image = behind[..., 0], behind[..., image_S].sum(-1)
        masses.append(torch.stack([first, image, behind.sum(-1) - first - image]))
    if family is gemma3:  # a window leaves the denominator alone where a model's mask is plain; here it is its own
        assert [layer.kind for layer in score.layers] == ["own mask, both directions"] * 2
    longest = max(x.shape[-1] for x in alphas)
    padded = [torch.nn.functional.pad(x, (0, longest - x.shape[-1]), value=torch.nan) for x in alphas]
    alpha_LHS = torch.stack(padded).nanmean(0)
    assert (outcome.arrays["0/images with text/alpha"] - alpha_LHS).abs().max() <= 1e-6
    found = torch.tensor([group.mass for group in score.groups]).double()
    torch.testing.assert_close(found, torch.stack(masses).mean(0), rtol=0, atol=1e-5)
    assert [group.name for group in score.groups] == ["first" if family is qwen else "BOS", "image", "text"]
    assert score.balance_error <= 1e-6
    assert ("goes to the first token (" if family is qwen else "goes to BOS (") in " ".join(outcome.result.verdict)
    assert "Attention by kind of key" in html(outcome.result, {})


def test_tokens_of_an_image_are_named_by_their_place(files, tmp_path):
    shown = inputs(recipe(files), qwen(tmp_path))[0]
    assert [shown.token_text(1, index) for index in range(4)] == ["<begin>", "image 0,0", "image 0,1", "<end>"]
    shown = inputs(recipe(files), opened(llava(tmp_path / "llava")))[0]
    assert [shown.token_text(0, index) for index in range(5)] == ["<bos>", *PLACES]


@torch.no_grad()
def by_hand(loaded: LoadedModel, given: dict[str, Tensor], change) -> tuple[float, int]:
    """(sum of the losses of text behind the image, their number), attention's weights changed by `change`."""
    first = int((given["input_ids"][0] == IMAGE).nonzero()[-1]) + 1

    def attention(module, query, key, value, attention_mask, scaling, **_):
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        score = query @ key.mT * scaling + (0 if attention_mask is None else attention_mask[..., : key.shape[2]])
        a = change(score.softmax(-1), first) if module.is_causal else score.softmax(-1)
        return (a @ value).transpose(1, 2), a

    AttentionInterface.register("by_hand", attention)
    AttentionMaskInterface.register("by_hand", eager_mask)
    loaded.model.set_attn_implementation("by_hand")
    inputs = {name: x.double() if x.is_floating_point() else x for name, x in given.items()}
    logits = loaded.model(**inputs, use_cache=False).logits[0, first - 1 : -1]
    loaded.model.set_attn_implementation("sdpa")
    target = given["input_ids"][0, first:]
    return float(torch.nn.functional.cross_entropy(logits, target, reduction="sum")), len(target)


@pytest.mark.parametrize("family", [gemma3, llava])
def test_what_is_hidden_and_what_is_moved_costs_what_changed_maps_cost(family, files, tmp_path):
    loaded = opened(family(tmp_path / "model"))
    asked = recipe(files)
    shown, outcome = inputs(asked, loaded)[0], run(asked, loaded)

    def moved(share):
        def change(a, first):
            a, image = a.clone(), given["input_ids"][0] == IMAGE
            row = a[:, :, first:]
            mass = row[..., image].sum(-1, keepdim=True)
            given_away = torch.where(mass > 0, share * row[..., :1], torch.zeros_like(mass))
            row[..., image] *= 1 + given_away / mass.clamp(min=1e-300)
            row[..., :1] -= given_away
            return a

        return change

    def without(keys):
        def change(a, first):
            a = a.clone()
            a[:, :, first:, keys(given["input_ids"][0])] = 0
            return a / a.sum(-1, keepdim=True)

        return change

    ways = {
        "first key hidden from the text": without(lambda ids: torch.arange(len(ids)) == 0),
        "image hidden": without(lambda ids: ids == IMAGE),
        "50 % moved from the first token to the image": moved(0.5),
        "100 % moved from the first token to the image": moved(1.0),
    }
    lines = {line.name: line for line in outcome.result.measure.checkpoints[0].costs}
    assert list(lines) == list(ways)
    for name, change in ways.items():
        sums = np.zeros((2, 2))
        for given in shown.given:
            sums += [by_hand(loaded, given, own) for own in (lambda a, first: a, change)]
        before, after = np.exp(sums[:, 0] / sums[:, 1])
        assert (lines[name].baseline, lines[name].perplexity) == pytest.approx((before, after), rel=1e-9), name
        assert abs(after / before - 1) > 1e-5, name


def planted(folder: Path, on: str) -> Path:
    """All heads of the second layer look for channel 5, which BOS has, or what an image is turned into."""
    llava(folder, attention_bias=True, rope_parameters=dict(rope_type="default", rope_theta=1e9))
    model = AutoModelForImageTextToText.from_pretrained(folder)
    with torch.no_grad():
        if on == "BOS":
            model.get_input_embeddings().weight[2, 5] = 900.0
        else:
            model.model.multi_modal_projector.linear_2.bias[5] = 900.0
        attention = model.get_decoder().layers[1].self_attn
        attention.q_proj.weight.zero_()
        attention.q_proj.bias.copy_(torch.tensor([0.0, 1, 1, 1, 0, 1, 1, 1]).repeat(4))  # pairs that hardly turn
        attention.k_proj.weight.zero_()[:, 5] = 1.0
        attention.k_proj.bias.zero_()
    model.save_pretrained(folder)
    return folder


def test_a_sink_planted_in_the_first_token_and_one_in_the_image_are_told_apart(files, tmp_path):
    for on in ("BOS", "image"):
        folder = planted(tmp_path / on, on)
        outcome = run(recipe(files, epsilon=(0.2,)), opened(folder))
        (score,) = outcome.result.measure.checkpoints[0].inputs
        share = {group.name: np.mean(group.mass[1]) for group in score.groups}
        assert share[on] > 0.99
        sinks = {sink.token for sink in score.found if sink.strongest[0] == 1}
        assert sinks.intersection(PLACES) == (set(PLACES) if on == "image" else set())
        assert (score.sinks[0].percent >= 50) == (on == "BOS")


class Tiling:
    """Puts an image as LLaVA's own does, or cut in four behind an end each; without BOS."""

    image_token = "<image>"

    def __init__(self, tiles: int = 1, apart: str = ""):
        self.tiles, self.apart, self.tokenizer = tiles, apart, tokenizer()

    def __call__(self, text: str, images: list, return_tensors: str) -> dict[str, Tensor]:
        whole = text.replace("<image>", self.apart.join(["<image> " * 4] * self.tiles))
        ids = self.tokenizer(whole, return_tensors=return_tensors, add_special_tokens=False)["input_ids"]
        return {"input_ids": ids, "pixel_values": torch.rand(self.tiles, 3, 16, 16)}


def test_an_image_in_front_of_everything_leaves_no_first_token_to_speak_of(files, tmp_path):
    loaded = replace(opened(llava(tmp_path / "llava")), processor=Tiling())
    outcome = run(recipe(files), loaded)
    (found,) = outcome.result.measure.checkpoints
    assert [group.name for group in found.inputs[0].groups] == ["image", "text"]
    assert [line.name for line in found.costs] == ["image hidden"]
    assert any("the first token is one of the image's" in note for note in outcome.result.notes)


@pytest.mark.parametrize("apart", ["", "<end>"])
def test_tokens_of_a_tiled_image_are_counted_as_no_row_is_known(apart, files, tmp_path):
    """Four tiles of 2 × 2 are no square of 4 × 4."""
    loaded = replace(opened(llava(tmp_path / "llava")), processor=Tiling(4, apart))
    shown = inputs(recipe(files), loaded)[0]
    assert [shown.token_text(0, index) for index in range(4)] == [f"image {n}" for n in range(4)]


def test_text_that_sees_later_text_is_given_no_costs_and_a_reason(files, tmp_path):
    """PaliGemma's prompt is a prefix, in which everything sees everything."""
    config = AutoConfig.for_model(
        "paligemma", text_config=SHAPE | dict(model_type="gemma"), image_token_id=IMAGE, projection_dim=32,
        vision_config=VISION | dict(model_type="siglip_vision_model"),
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config).double().eval()

    class Prefixing(Tiling):
        def __call__(self, *args, **kwargs):
            given = super().__call__(*args, **kwargs)
            ids = given["input_ids"]
            return given | {"token_type_ids": torch.zeros_like(ids), "labels": torch.full_like(ids, -100)}

    words = Prefixing()
    loaded = LoadedModel(model, words.tokenizer, "paligemma", "in memory", kind="multimodal", processor=words)
    outcome = run(recipe(files), loaded)
    (found,) = outcome.result.measure.checkpoints
    assert found.costs == []
    assert any("sees later text too" in note for note in outcome.result.notes)
    with pytest.raises(ModelError, match="leave --cost out"):
        run(recipe(files, cost=dict(run=True)), loaded)


def test_a_multimodal_model_is_told_from_flags_and_one_of_text_refuses_images(files, tmp_path, sinkctl):
    folder = llava(tmp_path / "llava")
    flags = ("--images", files[0], "--text", files[2], "--length", 20, "--device", "cpu", "--json")
    code, out, err = sinkctl("measure", folder, *flags)
    assert code == 0, err
    result = json.loads(out)
    assert result["measure"]["checkpoints"][0]["kind"] == "multimodal"
    assert {"mass.BOS", "mass.image", "mass.text"} <= {measured["name"] for measured in result["measurements"]}
    code, _, err = sinkctl("measure", folder, "--device", "cpu", "--json")
    assert (code, "sinkctl measure --images" in " ".join(err.split())) == (3, True)
    code, _, err = sinkctl("measure", "demo", *flags)
    assert (code, "demo reads text, not images" in " ".join(err.split())) == (2, True)
