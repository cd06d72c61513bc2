"""What training makes small, and which parameters learn how fast."""

import math
from types import SimpleNamespace

import pytest
import torch
from designed import ATTENDING, designed
from torch.nn.functional import cross_entropy, kl_div
from torch.optim import AdamW, Muon

from sinkctl.recipe.schema import ConvertRecipe
from sinkctl.recipe.training import LossSettings, TrainingSettings
from sinkctl.tasks.convert.training import losses
from sinkctl.tasks.convert.training.losses import parts
from sinkctl.tasks.convert.training.massive import excess, excesses
from sinkctl.tasks.convert.training.optimizers import optimizers, schedule
from sinkctl.tasks.convert.training.packing import Body, packed
from sinkctl.tasks.convert.training.plan import compiles
from sinkctl.tasks.convert.training.trained import decoder_layers, trainable

V, BOS = 11, 1
NORMS_AND_BIASES = ("norm", "bias")


def logits(rows: int, tokens: int, vocabulary: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, tokens, vocabulary, generator=torch.Generator().manual_seed(seed)).mul(3)


@pytest.mark.parametrize("boundaries", ["none", "mask"])
def test_the_kl_and_its_gradient_are_torch_s_over_the_tokens_that_both_packings_predict(boundaries, monkeypatch):
    """Predictions taken three at a time, of which the last are fewer."""
    monkeypatch.setattr(losses, "NUMBERS", 3 * V + 1)
    bodies = [Body(torch.arange(2, 9).numpy(), (0, 3, 4)), Body(torch.arange(3, 8).numpy(), (0,))]
    ours, theirs = packed(bodies, (), boundaries), packed(bodies, (BOS,), boundaries)
    assert theirs.ids_BT.shape[1] > ours.ids_BT.shape[1]
    ours_BTV, true_BTV = logits(*ours.ids_BT.shape, V + 2, 1), logits(*theirs.ids_BT.shape, V, 2)
    ours_BTV = ours_BTV.double().requires_grad_()
    expected = torch.zeros((), dtype=torch.float64)
    for row, body in enumerate(bodies):
        starts = (0,) if boundaries == "none" else body.starts
        for index in range(len(body.ids)):
            if index in starts:
                continue  # without a BOS nothing predicts it
            begun = sum(start <= index for start in starts)  # a BOS each in front of it
            log_V, true_V = (
                ours_BTV[row, index - 1, :V].log_softmax(-1), true_BTV[row, index + begun - 1].double().log_softmax(-1),
            )  # fmt: skip
            expected = expected + kl_div(log_V, true_V, reduction="sum", log_target=True)
    found = losses.divergence(ours_BTV, ours, true_BTV, theirs, V)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    gradients = (torch.autograd.grad(0.3 * each, ours_BTV)[0] for each in (found, expected))
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-15)


def test_losses_add_up_over_predicted_tokens():
    logits_BTV, target_BT = logits(2, 5, V, 3), torch.tensor([[3, 4, -100, 5, -100], [-100, 6, 7, 8, 9]])
    kl, first = torch.tensor(5.0), [torch.tensor(0.2), torch.tensor(0.4)]
    nats = [
        cross_entropy(logits_BTV[b, t], target_BT[b, t]).item()
        for b, t in (target_BT >= 0).nonzero().tolist()
    ]  # fmt: skip
    massive, weights = [torch.tensor(3.0), torch.tensor(0.0)], LossSettings(lm=0.5, kl=2.0, first=10.0, massive=0.1)
    found = parts(weights, logits_BTV, target_BT, kl, first, massive)
    assert len(nats) == 7
    assert found.lm.item() == pytest.approx(sum(nats), rel=1e-6)
    assert found.objective.item() == pytest.approx(
        0.5 * sum(nats) + 2.0 * 5.0 + 10.0 * 0.3 * 7 + 0.1 * 1.5 * 7, rel=1e-6
    )


def test_the_excess_of_massive_activations_is_the_sum_of_their_logarithms():
    """Of 1s among which stand -40 and 90 in one sequence, 8 in the other; 10 times the median may stay."""
    h_BTC = torch.ones(2, 5, 7).double()
    h_BTC[0, 0, 3], h_BTC[0, 2, 3], h_BTC[1, 4, 6] = -40.0, 90.0, 8.0
    h_BTC = (h_BTC * torch.tensor([2.0, 0.5])[:, None, None]).requires_grad_()  # sequences have medians of their own
    found = excess(h_BTC, 10.0)
    assert found.item() == pytest.approx((math.log(4) + math.log(9)) / 2)
    (gradient_BTC,) = torch.autograd.grad(found, h_BTC)
    expected_BTC = torch.zeros_like(gradient_BTC)
    expected_BTC[0, 0, 3], expected_BTC[0, 2, 3] = 1 / (2 * -80.0), 1 / (2 * 180.0)
    torch.testing.assert_close(gradient_BTC, expected_BTC)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_what_is_compiled_for_a_gpu_is_what_a_cpu_finds_in_float64(monkeypatch):
    """The KL of bfloat16 logits, a few predictions at a time, and the excess; inside what is not compiled, as hooks."""
    monkeypatch.setattr(losses, "NUMBERS", 5 * 4096)
    bodies = [Body(torch.arange(2, 40).numpy(), (0,)), Body(torch.arange(3, 34).numpy(), (0,))]
    pack = packed(bodies, (BOS,), "none")
    ours_BTV, true_BTV = (logits(*pack.ids_BT.shape, 4096, seed).bfloat16() for seed in (1, 2))
    h_BTC = logits(3, 50, 64, 3)
    h_BTC[0, 7, 9] = 500.0
    found = []
    for device, dtype in (("cpu", torch.float64), ("cuda", None)):
        ours, h = (x.to(device, dtype or x.dtype).requires_grad_() for x in (ours_BTV, h_BTC))
        kl = losses.divergence(ours, pack, true_BTV.to(device), pack, 4096)
        above = torch.compiler.disable(excess)(h, 2.0)
        found.append([kl, above, *torch.autograd.grad(kl + above, (ours, h))])
    for theirs, ours in zip(*found, strict=True):
        size = float(theirs.detach().abs().max())
        assert float((ours.detach().cpu().double() - theirs.detach()).abs().max()) < size * (
            2**-8 if ours.dtype == torch.bfloat16 else 1e-5
        )


def test_every_layer_s_output_is_looked_at_where_gradients_are_taken_and_not_after():
    model = designed("llama", ATTENDING["sink_logit"])
    ids_BT = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(0))
    outputs = []
    with excesses(decoder_layers(model), 2.0) as found:
        with torch.no_grad():
            states = model(ids_BT, output_hidden_states=True).hidden_states
        assert found == []
        hooks = [layer.register_forward_hook(lambda _, __, out: outputs.append(out)) for layer in decoder_layers(model)]
        model(ids_BT)
        for hook in hooks:
            hook.remove()
    torch.testing.assert_close(outputs[0].detach(), states[1])
    torch.testing.assert_close(torch.stack(found), torch.stack([excess(h_BTC, 2.0) for h_BTC in outputs]))
    model(ids_BT)
    assert len(found) == len(outputs) == len(decoder_layers(model))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_weight_decay_shrinks_matrices_and_nothing_else(optimizer):
    settings = TrainingSettings(optimizer=optimizer, lr=0.01, weight_decay=0.5, sink_lr=0.1)
    model = designed("qwen2", ATTENDING["kv_bias_bias"])  # Qwen2's projections have biases
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    part = trainable(model, settings, None, torch.float32)
    for parameter in part.parameters:
        parameter.grad = torch.zeros_like(parameter)
    for each in optimizers(settings, part.new.values(), part.rest, part.inner, fused=False):
        each.step()
    kinds = set()
    for name, parameter in model.named_parameters():
        decays = not (".sink." in name or any(word in name for word in NORMS_AND_BIASES))
        kinds.add((decays, parameter.dim(), ".sink." in name))
        torch.testing.assert_close(parameter.data, before[name] * (0.995 if decays else 1.0), rtol=1e-6, atol=0)
        assert decays or torch.equal(parameter.data, before[name]), name
    assert kinds == {(True, 2, False), (False, 1, False), (False, 2, True)}


def test_muon_has_the_matrices_inside_layers_and_adamw_the_rest():
    settings = TrainingSettings(optimizer="muon", lr=1e-3)
    model = designed("qwen3", ATTENDING["sink_logit"])
    part = trainable(model, settings, None, torch.float32)
    adamw, muon = optimizers(settings, part.new.values(), part.rest, part.inner, fused=False)
    assert (type(adamw), type(muon)) == (AdamW, Muon)
    held = {id(p): each for each in (adamw, muon) for group in each.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        inner = name.startswith("model.layers.") and name.endswith("proj.weight")
        assert held[id(parameter)] is (muon if inner else adamw), name


def test_numbers_a_head_learn_faster_unless_told_otherwise():
    model = designed("llama", dict(kind="kv_bias", parameters=["key", "value", "bias", "logit"]))
    for said, of_numbers, of_vectors in (("auto", 0.01, 0.001), (0.5, 0.5, 0.5)):
        settings = TrainingSettings(lr=0.001, sink_lr=said)
        part = trainable(model, settings, None, torch.float32)
        (adamw,) = optimizers(settings, part.new.values(), part.rest, part.inner, fused=False)
        rates = {id(p): group["lr"] for group in adamw.param_groups for p in group["params"]}
        for name, parameter in model.named_parameters():
            rate = 0.001 if ".sink." not in name else of_numbers if name.endswith("logit") else of_vectors
            assert rates[id(parameter)] == rate, name


def test_a_fixed_logit_and_frozen_weights_do_not_learn():
    for trained, learns in (("all", ("",)), ("attention", (".self_attn.",)), ("new", (".sink.",))):
        model = designed("llama", dict(kind="softmax1", parameters=["logit", "bias"]))
        part = trainable(model, TrainingSettings(trained=trained), None, torch.bfloat16)
        for name, parameter in model.named_parameters():
            wanted = any(word in name for word in learns) and not name.endswith(".logit")
            assert parameter.requires_grad is wanted, name
            assert any(parameter is each for each in part.parameters) is wanted, name
            held = torch.float32 if wanted or name.endswith(".logit") else torch.bfloat16
            assert parameter.dtype is held, name
        assert part.numbers == sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(("said", "warmup"), [("auto", 2), (7, 7), (0, 0)])
def test_the_rate_rises_linearly_and_falls_as_a_cosine(said, warmup):
    settings, steps = TrainingSettings(lr=0.1, warmup=said, final_lr=0.2), 40
    optimizer = AdamW([torch.nn.Parameter(torch.zeros(1))], lr=settings.lr)
    scheduler = schedule(optimizer, settings, steps)
    for step in range(steps + 1):
        done = (step + 1 - warmup) / (steps - warmup)
        expected = (step + 1) / warmup if step < warmup else 0.2 + 0.8 * (1 + math.cos(math.pi * done)) / 2
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * expected), step
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(
    ("steps", "boundaries", "asked", "device", "expected"),
    [
        (500, "none", "auto", "cuda", (True, "500 steps repay compiling")),
        (499, "none", "auto", "cuda", (False, "499 steps are too few to repay compiling")),
        (999, "mask", "auto", "cuda", (False, "999 steps are too few to repay compiling")),
        (1000, "mask", "auto", "cuda", (True, "1,000 steps repay compiling")),
        (9000, "none", "auto", "cpu", (False, "only pays on a GPU")),
        (1, "mask", True, "cpu", (True, "asked for")),
    ],
)
def test_layers_are_compiled_where_the_steps_repay_it(steps, boundaries, asked, device, expected, demo):
    training = {"boundaries": boundaries, "compile": asked, "text": {"files": ["a.txt"]}}
    recipe = ConvertRecipe.model_validate({"sink": {"kind": "none"}, "steps": steps, "training": training})
    assert compiles(recipe, SimpleNamespace(model=demo.model, device=torch.device(device))) == expected
