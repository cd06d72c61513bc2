"""Quantization-aware training: what of keys and values is rounded, to what, and what gradient passes."""

import pytest
import torch
from designed import ATTENDING, GATES, designed
from training_runs import curve, recipe_of, small, train, weights

from sinkctl.check import check
from sinkctl.errors import UsageError
from sinkctl.kernels.rounded_decode.quantize import rounded
from sinkctl.recipe.training import RoundedSettings, TrainingSettings
from sinkctl.report.trained import training_facts
from sinkctl.tasks.convert.training import attention
from sinkctl.tasks.convert.training.attention import Seen, attending
from sinkctl.tasks.convert.training.rounded import StraightThrough, keys_and_values_rounded
from sinkctl.tasks.convert.training.trained import trainable


@pytest.fixture(scope="module")
def text(book, tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "novel.txt"
    path.write_text(book[:20_000])
    return path


def test_a_rounded_key_is_the_nearest_of_its_token_s_grid_and_its_gradient_is_that_of_the_full_one():
    """Eight channels from 0 to 6, two bits: 0, 2, 4, 6; eight more, ten times as large."""
    x_C = torch.tensor([0.0, 0.9, 1.1, 2.9, 3.1, 5.2, 6.0, 4.6], dtype=torch.float64)
    expected_C = torch.tensor([0.0, 0.0, 2.0, 2.0, 4.0, 6.0, 6.0, 4.0], dtype=torch.float64)
    x_D = torch.cat([x_C, 10 * x_C]).requires_grad_()
    found_D = StraightThrough.apply(x_D[None], 2, 8)[0]
    torch.testing.assert_close(found_D, torch.cat([expected_C, 10 * expected_C]), rtol=0, atol=1e-14)
    weight_D = torch.randn(16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (gradient_D,) = torch.autograd.grad((found_D * weight_D).sum(), x_D)
    assert torch.equal(gradient_D, weight_D)


def seen_by_layers(
    model, settings: RoundedSettings | None, ids_BT: torch.Tensor, monkeypatch
) -> tuple[list, torch.Tensor]:
    """Queries, keys and values of each layer's attention, un-rotated, and the logits."""
    asked, plain = [], attention._softmax

    def noted(seen, q, k, v, *rest):
        asked.append((q, k, v))
        return plain(seen, q, k, v, *rest)

    with monkeypatch.context() as patched, keys_and_values_rounded(model, settings), attending(model, Seen()):
        patched.setattr(attention, "_softmax", noted)
        return asked, model(ids_BT, position_ids=torch.zeros_like(ids_BT)).logits


def ranges_of_four(x: torch.Tensor) -> bool:
    """Whether no eight neighbouring channels hold more than four different numbers."""
    x = x.detach().unflatten(-1, (-1, 8))
    gap = x.sort(-1).values.diff(dim=-1)
    return bool(((gap > 1e-3 * (x.amax(-1) - x.amin(-1))[..., None]).sum(-1) <= 3).all())


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "gpt_neox"])
def test_keys_are_rounded_before_their_rotation_and_values_as_they_are_in_every_family(family, monkeypatch):
    """Projections, norms behind them (of either order of axes) and a fused one; at position 0 nothing is turned."""
    model, rounding = designed(family, ATTENDING["sink_logit"]), RoundedSettings(bits=2, group=8)
    ids_BT = torch.randint(0, 50, (2, 19), generator=torch.Generator().manual_seed(0))
    full, _ = seen_by_layers(model, None, ids_BT, monkeypatch)
    found, _ = seen_by_layers(model, rounding, ids_BT, monkeypatch)
    assert torch.equal(full[0][0], found[0][0]), "queries are in full"
    for true, own in zip(full[0][1:], found[0][1:], strict=True):  # the first layer's are made of the same
        true, own = (x.unflatten(-1, (-1, 8)) for x in (true, own))
        half_step = (true.amax(-1) - true.amin(-1)) / 6
        assert ((own - true).abs().amax(-1) <= half_step * (1 + 1e-4) + 1e-7).all()
    assert all(ranges_of_four(x) for _, *pair in found for x in pair)
    assert not any(ranges_of_four(x) for _, *pair in full for x in pair)
    with torch.no_grad():  # a measurement on the way sees the model as it is
        measured, _ = seen_by_layers(model, rounding, ids_BT, monkeypatch)
    assert all(torch.equal(a, b) for a, b in zip(measured[-1], full[-1], strict=True))


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "gpt_neox"])
def test_by_channel_a_key_is_what_a_cache_makes_of_the_last_of_a_group(family, monkeypatch):
    """Of the group of eight tokens that ends with it, or of the fewer that there are; values are so by token."""
    model, rounding = designed(family, ATTENDING["sink_logit"]), RoundedSettings(bits=3, group=8, keys="channel")
    ids_BT = torch.randint(0, 50, (2, 19), generator=torch.Generator().manual_seed(0))
    (_, full_BGTD, value_BGTE), *_ = seen_by_layers(model, None, ids_BT, monkeypatch)[0]
    (_, found_BGTD, held_BGTE), *_ = seen_by_layers(model, rounding, ids_BT, monkeypatch)[0]
    for t in range(19):
        (last,) = rounded(full_BGTD[..., max(0, t - 7) : t + 1, :], 3, None).unbind(-2)[-1:]
        torch.testing.assert_close(found_BGTD[..., t, :], last, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(held_BGTE, rounded(value_BGTE, 3, 8), rtol=1e-4, atol=1e-6)
    assert (found_BGTD - full_BGTD).abs().max() > 0.01 * full_BGTD.abs().max()


@pytest.mark.parametrize("sink", [GATES["value_elementwise"], ATTENDING["sink_logit_bias"]], ids=["gate", "less"])
def test_what_a_sink_takes_of_keys_and_values_it_takes_before_they_are_rounded(sink, monkeypatch):
    """With low-rank updates too, which put another module in a projection's place."""
    model = designed("llama", sink)
    part = trainable(model, TrainingSettings(trained="lora"), None, torch.float32)
    ids_BT = torch.randint(0, 50, (1, 9), generator=torch.Generator().manual_seed(0))
    found, _ = seen_by_layers(part.model.get_base_model(), RoundedSettings(bits=2, group=8), ids_BT, monkeypatch)
    assert all(ranges_of_four(x) for _, *pair in found for x in pair)


@pytest.mark.parametrize("keys", ["token", "channel"])
def test_no_query_sees_ahead(keys, monkeypatch):
    """A later token changes no earlier logit, as it does not where nothing is rounded."""
    model = designed("llama", ATTENDING["sink_logit"])
    ids_BT = torch.randint(0, 50, (1, 19), generator=torch.Generator().manual_seed(0))
    other_BT = ids_BT.clone()
    other_BT[0, 12] += 1
    rounding = RoundedSettings(bits=2, group=8, keys=keys)
    one, two = (seen_by_layers(model, rounding, x, monkeypatch)[1] for x in (ids_BT, other_BT))
    assert torch.equal(one[:, :12], two[:, :12])
    assert (one[:, 12:] - two[:, 12:]).abs().max() > 1e-3


def test_a_run_learns_under_rounding_and_the_control_does_so_too(demo, text, tmp_path):
    """The losses of both are others from the first step on, and the checkpoint is one like any other."""
    rounding = {"rounded": {"bits": 2, "group": 8}, "control": True}
    model = small(demo.tokenizer)
    full = train(tmp_path / "full", model, "sink_logit", text, {"control": True})
    found = train(tmp_path / "rounded", model, "sink_logit", text, rounding)
    for label in ("converted", "control"):
        assert abs(curve(found, label).loss[0] - curve(full, label).loss[0]) > 1e-5
    seen = ["a query sees", "the last 16 tokens and itself, as 2-bit KV, keys by token, groups of 8"]
    assert seen in training_facts(found.result.convert.training, "sink_logit")
    assert weights(tmp_path / "rounded").keys() == weights(tmp_path / "full").keys()


def test_heads_that_cannot_be_cut_into_groups_are_refused_before_training(demo, text, tmp_path):
    model = small(demo.tokenizer)
    with pytest.raises(UsageError, match=r"training.rounded.group: 48 does not divide values of 16 channels; give 16"):
        train(tmp_path / "out", model, "sink_logit", text, {"rounded": {"group": 48}})
    with pytest.raises(UsageError, match=r"group: 48 does not divide values of 64 channels; give 64"):  # before torch
        check(recipe_of("sink_logit", text, {"rounded": {"group": 48}}))
    with pytest.raises(UsageError, match=r"training.rounded: nothing is trained"):
        train(tmp_path / "out", model, "sink_logit", text, {"rounded": {}}, steps=0)
    assert recipe_of("none", text, {"rounded": {}}).training.rounded.bits == 4
    assert not (tmp_path / "out").exists()


def test_compiled_layers_and_those_of_the_original_beside_them_learn_what_the_others_do(
    demo, text, tmp_path, monkeypatch
):
    """Traced with all hooks in place, and run by torch's own operators, so that no compiler is needed."""
    traced = []

    def counted(graph, inputs):
        traced.append(torch.is_grad_enabled())
        return graph.forward

    def compiled(block, **_):
        block._compiled_call_impl = torch.compile(block._call_impl, backend=counted, dynamic=False)

    monkeypatch.setattr(torch.nn.Module, "compile", compiled)
    model, found = small(demo.tokenizer), {}
    settings = {"loss": {"lm": 0, "kl": 1, "first": 0.5, "massive": 0.05, "massive_limit": 2.0}, "window": 8}
    for mode in (True, False):
        said = settings | {"compile": mode, "rounded": {"bits": 4, "group": 8, "keys": "channel"}}
        found[mode] = curve(train(tmp_path / str(mode), model, "sink_logit", text, said))
    assert set(traced) == {True, False}, "the original has no gradients"
    assert found[True].objective == pytest.approx(found[False].objective, rel=1e-5)
    assert found[True].gradient == pytest.approx(found[False].gradient, rel=1e-4)
