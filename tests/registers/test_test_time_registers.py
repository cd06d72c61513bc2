"""Test-time registers: planted register neurons are found, moved exactly, and stored so that transformers loads them.

B images, T tokens, P patches, C channels.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, PreTrainedModel

from sinkctl.api.conversion import convert
from sinkctl.errors import ModelError, TextError, UsageError
from sinkctl.registers.code.register_model import mlp_outputs
from sinkctl.tasks.convert.registers.build import build

HIDDEN, PATCHES = 32, 16  # of 8 × 8 in 32 × 32 pixels
SHAPE = dict(
    hidden_size=HIDDEN, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4, image_size=32, patch_size=8,
    initializer_range=0.1,
)  # fmt: skip
LAYER, NEURON = 1, 77  # where the planted neuron is
FAMILIES = ("vit", "dinov2")


def planted(model_type: str, auto: type = AutoModel, patch: int = 5, size: float = 300.0) -> PreTrainedModel:
    """A random model in which one neuron fires at one place, and writes a direction of that size there."""
    torch.manual_seed(0)
    model = auto.from_config(AutoConfig.for_model(model_type, **SHAPE)).eval()
    own = dict(model.base_model.named_parameters())
    mark_C = torch.zeros(HIDDEN).index_fill(0, torch.tensor([3]), 12.0)
    with torch.no_grad():
        own["embeddings.position_embeddings"][0, 1 + patch] += mark_C  # what the neuron knows the place by
        writes = mlp_outputs(model.base_model, HIDDEN)[LAYER]
        name = next(name for name, module in model.base_model.named_modules() if module is writes)
        reads = model.base_model.get_submodule(name.replace("fc2", "fc1"))
        reads.weight[NEURON] = 0
        reads.weight[NEURON, 3], reads.bias[NEURON] = 8.0, -30.0  # a norm leaves the mark about 4.5
        writes.weight[:, NEURON] = torch.nn.functional.normalize(torch.randn(HIDDEN), dim=0) * size / 7
    return model


@pytest.fixture
def photos(tmp_path):
    """Eight pictures of noise."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def saved(folder, model: PreTrainedModel):
    model.save_pretrained(folder)
    prepared = dict(size=dict(height=32, width=32), image_mean=[0.5] * 3, image_std=[0.5] * 3)
    (folder / "preprocessor_config.json").write_text(
        json.dumps(dict(image_processor_type="ViTImageProcessor", **prepared))
    )
    return folder


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def by_hand(model: PreTrainedModel, pixels_BCHW: Tensor, count: int, neurons: dict[int, list[int]]) -> Tensor:
    """The last features, [CLS] and patches, image by image, from the stock modules: blocks run one by one."""
    base, features = model.base_model, []
    blocks = base.encoder.layer if hasattr(base, "encoder") else base.layers
    outputs = mlp_outputs(base, HIDDEN)
    for image in pixels_BCHW:
        h_TC = base.embeddings(image[None])[0]
        h_TC = torch.cat([h_TC[:1], torch.zeros(count, HIDDEN), h_TC[1:]])
        for layer, block in enumerate(blocks):

            def move(module, inputs, layer=layer):
                x_TF = inputs[0][0].clone()
                for neuron in neurons.get(layer, ()):
                    patches = x_TF[1 + count :, neuron].tolist()
                    x_TF[1 : 1 + count, neuron] = max(patches, key=abs)
                    x_TF[1 + count :, neuron] = 0.0
                return (x_TF[None],)

            with outputs[layer].register_forward_pre_hook(move):
                out = block(h_TC[None])
            h_TC = (out[0] if isinstance(out, tuple) else out)[0]
        features.append(base.layernorm(torch.cat([h_TC[:1], h_TC[1 + count :]])))
    return torch.stack(features)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_stored_class_computes_what_moving_neurons_by_hand_does(model_type, count):
    model, pixels = planted(model_type), images(3)
    neurons = {0: [4, 9], LAYER: [NEURON], 3: [0, 127]}
    pairs = [(layer, index) for layer, own in neurons.items() for index in own]
    with torch.no_grad():
        out = build(model, count, pairs)(pixels, output_hidden_states=True, output_attentions=False)
    expected = by_hand(model, pixels, count, neurons)
    torch.testing.assert_close(out.last_hidden_state, expected, atol=1e-5, rtol=1e-5)
    assert out.hidden_states[1].shape[1] == 1 + count + PATCHES  # with registers
    assert out.last_hidden_state.shape == model(pixels).last_hidden_state.shape  # without


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_planted_neuron_is_found_moved_and_stored(model_type, tmp_path, photos):
    model = planted(model_type)
    where = saved(tmp_path / "planted", model)
    done = convert(where, to="test_time_registers", images=(str(photos),), output=tmp_path / "out")
    detail = done.result.registers
    assert [(n.layer, n.index) for n in detail.neurons] == [(LAYER, NEURON)]
    assert (detail.layer, detail.found_on, detail.judged_on) == (LAYER, 4, 4)
    before, after, other = detail.lines
    assert (before.outliers, after.outliers) == (4, 0)  # one patch an image
    assert before.patch_max > 250 > 30 > after.patch_max
    assert after.register_norm > 250  # it went there
    assert other.outliers == 4  # moving another neuron does nothing for it
    assert detail.tried == {1: 0}
    assert after.smoothness != before.smoothness
    # What is computed again from the stock model: the cosine of patches that were no outliers.
    pixels = torch.stack([processed(photos / f"{number}.png") for number in (1, 3, 5, 7)])
    with torch.no_grad():
        original = model(pixels).last_hidden_state
    moved = by_hand(model, pixels, 1, {LAYER: [NEURON]})
    cosine_BP = torch.cosine_similarity(original, moved, dim=-1)[:, 1:]
    keep = [patch for patch in range(PATCHES) if patch != 5]
    assert after.cosine == pytest.approx(float(cosine_BP[:, keep].mean()), abs=1e-4)
    assert after.cosine_outliers == pytest.approx(float(cosine_BP[:, 5].mean()), abs=1e-4)


def processed(path) -> Tensor:
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) / 127.5 - 1


PLAIN = """
import sys, torch
from transformers import AutoModelForImageClassification
assert "sinkctl" not in sys.modules
for folder in sys.argv[1:]:
    model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True).eval()
    assert not any(name.startswith("sinkctl") for name in sys.modules)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        torch.save(model(pixels).logits, folder + "/logits.pt")
    model.save_pretrained(folder + "/again")
    again = AutoModelForImageClassification.from_pretrained(folder + "/again", trust_remote_code=True).eval()
    with torch.no_grad():
        assert torch.equal(again(pixels).logits, torch.load(folder + "/logits.pt"))
"""


def test_plain_transformers_loads_the_folders_with_their_classifiers(tmp_path, photos):
    asked = dict(to="test_time_registers", images=(str(photos),), evaluation={"run": False})
    models = {name: planted(name, AutoModelForImageClassification) for name in FAMILIES}
    for name, model in models.items():
        convert(saved(tmp_path / f"planted-{name}", model), output=tmp_path / name, **asked)
    folders = [tmp_path / name for name in FAMILIES]
    ran = subprocess.run([sys.executable, "-c", PLAIN, *folders], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    for name, model in models.items():
        features_BTC = by_hand(model, images(2), 1, {LAYER: [NEURON]})
        cls_BC, patch_BPC = features_BTC[:, 0], features_BTC[:, 1:]
        shown = cls_BC if name == "vit" else torch.cat([cls_BC, patch_BPC.mean(1)], dim=1)
        found, expected = torch.load(tmp_path / name / "logits.pt"), model.classifier(shown).detach()
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_what_has_no_outliers_or_is_no_vision_transformer_is_refused_in_words(tmp_path, photos):
    where = saved(tmp_path / "plain", planted("dinov2", size=0.0))
    where_vit = saved(tmp_path / "deit", AutoModel.from_config(AutoConfig.for_model("deit", **SHAPE)))

    def refused(error, said, checkpoint=where, **settings):
        with pytest.raises(error, match=said):
            convert(checkpoint, to="test_time_registers", output=tmp_path / "out", **settings)
        assert not (tmp_path / "out").exists()

    refused(ModelError, "no outlier patches in these 4 images.*sink.outlier_norm", images=(str(photos),))
    refused(ModelError, "deit.*there is code for dinov2, vit", where_vit, images=(str(photos),))
    refused(ModelError, "demo is a decoder", "demo", images=(str(photos),))
    refused(UsageError, "--images FILE|DIR")
    refused(UsageError, "--steps 3: test_time_registers takes no training", images=(str(photos),), steps=3)
    refused(TextError, "nowhere: no such file", images=("nowhere",))
    with pytest.raises(UsageError, match=r"--images .*: sink_logit reads text"):
        convert("demo", images=(str(photos),), output=tmp_path / "out")
