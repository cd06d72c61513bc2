"""The script of the retrofit table: what it trains, and the numbers that no command of sinkctl gives."""

import math
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div
from training_runs import small

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import retrofit
from retrofit_judged import inputs_in_8_bits, predicted


def test_a_row_is_its_recipe_at_the_size_asked_for(monkeypatch):
    said = ["", "--model", "m.gguf", "--train-text", "a", "--text", "b", "--second", "c", "--folder", "d"]
    monkeypatch.setattr(sys, "argv", [*said, "--steps", "50", "--window", "60", "--batch", "4"])
    options = retrofit.arguments()
    staged, control = (retrofit.recipe_of(name, 2, options) for name in ("sink_logit_staged", "control"))
    assert (staged.steps, staged.training.alone, staged.training.batch, staged.training.seed) == (50, 10, 4, 2)
    assert (staged.training.window, staged.calibration.window, staged.model.name) == (60, 60, "m.gguf")
    assert staged.training.loss.massive > 0 == control.training.loss.massive
    assert staged.training.lr == control.training.lr
    child = retrofit.child(options)
    monkeypatch.setattr(sys, "argv", [*child, "--only", "control", "--first-seed", "2"])
    again = retrofit.arguments()
    assert retrofit.recipe_of("control", 2, again) == control


def test_losses_and_divergence_are_torch_s_each_model_with_its_own_front(demo):
    """The model puts BOS in front of texts; the other, of other numbers, too."""
    other = small(demo.tokenizer)
    ids_NT = torch.randint(10, 4000, (2, 9), generator=torch.Generator().manual_seed(0))
    found = predicted(demo, other, ids_NT)
    fed_NT = torch.cat([torch.full((2, 1), demo.bos_id), ids_NT], dim=1)
    with torch.no_grad():
        log_V, true_V = (m.model(fed_NT).logits[:, 1:-1].flatten(0, 1).log_softmax(-1) for m in (demo, other))
    assert found["dense"] == pytest.approx(math.exp(cross_entropy(log_V, ids_NT[:, 1:].flatten())), rel=1e-4)
    assert found["kl"] == pytest.approx(kl_div(log_V, true_V, reduction="batchmean", log_target=True).item(), rel=1e-4)
    assert predicted(demo, demo, ids_NT)["kl"] == 0


def test_inputs_in_8_bits_are_within_half_a_step_of_one_range_a_tensor(demo):
    layer, seen = demo.model.model.layers[3].mlp.down_proj, []
    with torch.no_grad(), inputs_in_8_bits(demo.model):
        hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        x_BTC = torch.randn(1, 5, layer.in_features, generator=torch.Generator().manual_seed(1))
        x_BTC[0, 0, 0] = 510.0
        layer(x_BTC)
        hook.remove()
    step = (510.0 - float(x_BTC.min())) / 255
    assert float((seen[0] - x_BTC).abs().max()) <= 0.5 * step * (1 + 1e-6)
    assert len(seen[0].unique()) < 8, "what lies between -4 and 4 has a step of 2"
    with torch.no_grad():
        assert torch.equal(layer(x_BTC), torch.nn.functional.linear(x_BTC, layer.weight)), "and no longer"
