"""Quantization-aware training: what of keys and values is rounded, to what, and what gradient passes."""

import pytest
import torch
from designed import ATTENDING, designed
from training_runs import curve, recipe_of, small, train, weights

from sinkctl.errors import UsageError
from sinkctl.recipe.training import RoundedSettings
from sinkctl.report.trained import training_facts
from sinkctl.tasks.convert.training import attention
from sinkctl.tasks.convert.training.attention import Seen, attending
from sinkctl.tasks.convert.training.rounded import fake_quantized, keys_and_values_rounded


@pytest.fixture(scope="module")
def text(book, tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "novel.txt"
    path.write_text(book[:20_000])
    return path


def test_a_rounded_key_is_the_nearest_of_the_grid_of_its_channel_and_its_gradient_is_that_of_the_full_one():
    """Eight tokens in one channel from 0 to 6, two bits: 0, 2, 4, 6; the ninth fills no group."""
    x_T = torch.tensor([0.0, 0.9, 1.1, 2.9, 3.1, 5.2, 6.0, 4.6, 0.7], dtype=torch.float64)
    x_BGTD = (x_T[:, None] * torch.tensor([1.0, 10.0] * 4, dtype=torch.float64))[None, None].requires_grad_()
    found_BGTD = fake_quantized(x_BGTD, 2, 8, None)
    expected_T = torch.tensor([0.0, 0.0, 2.0, 2.0, 4.0, 6.0, 6.0, 4.0, 0.7], dtype=torch.float64)
    torch.testing.assert_close(found_BGTD[0, 0, :, 0], expected_T, rtol=0, atol=1e-6)
    torch.testing.assert_close(found_BGTD[0, 0, :, 1], 10 * expected_T, rtol=0, atol=1e-5)
    weight_BGTD = torch.randn(x_BGTD.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (gradient_BGTD,) = torch.autograd.grad((found_BGTD * weight_BGTD).sum(), x_BGTD)
    assert torch.equal(gradient_BGTD, weight_BGTD)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "gpt_neox"])
@pytest.mark.parametrize("keys", ["channel", "token"])
def test_keys_are_rounded_before_their_rotation_and_values_as_they_are_in_every_family(family, keys, monkeypatch):
    """Projections, norms behind them (of either order of axes) and a fused one; at position 0 nothing is turned."""
    model, asked = designed(family, ATTENDING["sink_logit"]), []
    ids_BT = torch.randint(0, 50, (2, 19), generator=torch.Generator().manual_seed(0))
    plain = attention._softmax

    def noted(seen, q, k, v, *rest):
        asked.append((q, k, v))
        return plain(seen, q, k, v, *rest)

    monkeypatch.setattr(attention, "_softmax", noted)

    def layers(settings: RoundedSettings | None):
        asked.clear()
        with keys_and_values_rounded(model, settings), attending(model, Seen()):
            model(ids_BT, position_ids=torch.zeros_like(ids_BT))
        return list(asked)

    full, rounded = layers(None), layers(RoundedSettings(bits=2, keys=keys, group=8))
    (q, k, v), (own_q, own_k, own_v) = full[0], rounded[0]  # the first layer's are made of the same
    assert torch.equal(q, own_q)
    by_channel = keys == "channel"
    for found, true, tokens in ((own_k, k, by_channel), (own_v, v, False)):
        if tokens:
            assert torch.equal(found[:, :, 16:], true[:, :, 16:]), "the last three fill no group"
            found, true = (x[:, :, :16].unflatten(2, (2, 8)).transpose(3, 4) for x in (found, true))
        else:
            found, true = (x.unflatten(-1, (-1, 8)) for x in (found, true))
        half_step = (true.amax(-1) - true.amin(-1)) / 6
        assert ((found - true).abs().amax(-1) <= half_step * (1 + 1e-4) + 1e-7).all()
        gap = found.sort(-1).values.diff(dim=-1)  # numbers of one range are four at most
        assert ((gap > 0.1 * half_step[..., None]).sum(-1) <= 3).all()
    assert len(rounded) == len(full) > 1
    with torch.no_grad():  # a measurement on the way sees the model as it is
        measured = layers(RoundedSettings(bits=2, keys=keys, group=8))
    assert all(torch.equal(a, b) for a, b in zip(measured[-1], full[-1], strict=True))


def test_a_run_learns_under_rounding_and_the_control_does_so_too(demo, text, tmp_path):
    """The losses of both are others from the first step on, and the checkpoint is one like any other."""
    rounded = {"rounded": {"bits": 2, "group": 8}, "control": True}
    model = small(demo.tokenizer)
    full = train(tmp_path / "full", model, "sink_logit", text, {"control": True})
    found = train(tmp_path / "rounded", model, "sink_logit", text, rounded)
    for label in ("converted", "control"):
        assert abs(curve(found, label).loss[0] - curve(full, label).loss[0]) > 1e-5
    seen = ["a query sees", "the last 16 tokens and itself, as 2-bit KV, groups of 8"]
    assert seen in training_facts(found.result.convert.training, "sink_logit")
    assert weights(tmp_path / "rounded").keys() == weights(tmp_path / "full").keys()


def test_heads_that_cannot_be_cut_into_groups_are_refused_before_training(demo, text, tmp_path):
    model = small(demo.tokenizer)
    with pytest.raises(UsageError, match=r"training.rounded.group: 48 does not divide values of 16 channels; give 16"):
        train(tmp_path / "out", model, "sink_logit", text, {"rounded": {"group": 48}})
    with pytest.raises(UsageError, match=r"training.rounded: nothing is trained"):
        train(tmp_path / "out", model, "sink_logit", text, {"rounded": {}}, steps=0)
    assert recipe_of("none", text, {"rounded": {}}).training.rounded.bits == 4
    assert not (tmp_path / "out").exists()
