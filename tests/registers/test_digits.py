"""Digits told apart by [CLS]: the two ways against plain loops and chance, and what a conversion says of them."""

import json

import numpy as np
import pytest
import torch
from test_test_time_registers import photos, planted, saved  # noqa: F401
from transformers import AutoConfig, AutoModel

from sinkctl.model.load import load
from sinkctl.tasks.convert.registers.probe import digits, scores

pytest.importorskip("sklearn", reason="scikit-learn is not installed")


def test_neighbours_are_those_of_a_plain_loop_and_features_without_digits_are_at_chance():
    """The first of equally many wins by its label, as scikit-learn's mode has it."""
    from sklearn.datasets import load_digits

    held = load_digits()
    feature, label = held.data[:300].astype(np.float64), held.target[:300]
    unit = feature / np.linalg.norm(feature, axis=1, keepdims=True)
    right = 0
    for n in range(1, 300, 2):
        near = np.argsort(-(unit[::2] @ unit[n]), kind="stable")[:5]
        right += np.bincount(label[::2][near]).argmax() == label[n]
    found = scores(feature, label)
    assert found["knn"] == pytest.approx(100 * right / 150)
    assert found["linear"] > 85
    noise = scores(np.random.default_rng(0).standard_normal((300, 16)), label)
    assert all(value < 25 for value in noise.values())


def test_a_conversion_says_how_digits_are_told_apart_before_and_after(tmp_path, photos, sinkctl):  # noqa: F811
    where = saved(tmp_path / "planted", planted("dinov2"))
    flags = ("--to", "test_time_registers", "--images", photos, "--device", "cpu", "--json")
    asked = ("--set", "evaluation.digits=60", "--fail-on", "knn>=0", "--fail-on", "linear_probe>=101")
    code, out, err = sinkctl("convert", where, *flags, *asked, "-o", tmp_path / "out")
    assert code == 1, err  # of 100 % at most
    result = json.loads(out)
    lines = {line["checkpoint"]: line for line in result["registers"]["lines"]}
    shown, model = digits(60, load(str(where), ("vision",))), AutoModel.from_pretrained(where)
    with torch.no_grad():
        features = [model(pixels).last_hidden_state[0, 0] for pixels in shown.pixels]
    expected = scores(torch.stack(features).numpy(), shown.label_N)
    assert {key: lines["original"][key] for key in expected} == pytest.approx(expected)
    assert all(line["knn"] is not None for line in lines.values())
    assert any("Of 30 digits [CLS] names rightly by neighbours" in words for words in result["verdict"])
    code, _, err = sinkctl("convert", where, *flags, "--fail-on", "knn>=0", "-o", tmp_path / "other")
    assert (code, "--set evaluation.digits=400" in " ".join(err.split())) == (2, True)


def test_both_halves_have_as_many_digits_of_each_class_and_other_numbers_are_refused(tmp_path, photos, sinkctl):  # noqa: F811
    where = saved(tmp_path / "planted", planted("dinov2"))
    loaded = load(str(where), ("vision",))
    loaded.processor = lambda images, **_: {"pixel_values": torch.zeros(1, 3, 2, 2)}
    for count in (40, 400, 1740):
        labels = digits(count, loaded).label_N
        assert [np.bincount(labels[half::2]).tolist() for half in (0, 1)] == [[count // 20] * 10] * 2
    for count in (20, 50, 1760):
        flags = ("--to", "test_time_registers", "--images", photos, "--set", f"evaluation.digits={count}")
        code, out, err = sinkctl("convert", where, *flags, "-o", tmp_path / "out")
        assert (code, out) == (2, "")
        assert "a multiple of 20 from 40 to 1,740" in " ".join(err.split())


@pytest.mark.parametrize("kind", ["test_time_registers", "registers"])
@pytest.mark.parametrize("model_type", ["dinov3_vit", "dinov2_with_registers"])
def test_a_model_with_registers_of_its_own_is_refused_in_a_line(tmp_path, photos, sinkctl, kind, model_type):  # noqa: F811
    config = AutoConfig.for_model(
        model_type, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=32,
        patch_size=8, num_register_tokens=2,
    )  # fmt: skip
    where = saved(tmp_path / "model", AutoModel.from_config(config))
    steps = ("--steps", 2) if kind == "registers" else ()
    code, out, err = sinkctl("convert", where, "--to", kind, "--images", photos, *steps, "-o", tmp_path / "out")
    assert (code, out) == (3, "")
    assert "was trained with 2 registers of its own" in " ".join(err.split())
    assert not (tmp_path / "out").exists()
