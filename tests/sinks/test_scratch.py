"""Mechanisms for training from scratch alone, beside their published formulas in float64, one query at a time."""

import math

import pytest
import torch

from sinkctl.sinks import SINKS, LayerShape
from sinkctl.sinks.code.sink_attention import AttentionSink

H, T, D = 3, 5, 8
SHAPE = LayerShape(heads=H, kv_heads=1, width=D, value_width=D, hidden=24)


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def over_sum(weights: list[float]) -> list[float]:
    return [w / sum(weights) for w in weights]


def normalised(products: list[float]) -> list[float]:
    return [s / max(abs(sum(products)), 1) for s in products]


def normaliser(scores: list[float]) -> list[float]:
    norm = sum(math.exp(3 * s) for s in scores) ** (1 / 3)
    return [0.4 * math.exp(s) / norm for s in scores]


# kind and settings → weights of one query of head h, from its scores with the keys up to itself.
FORMULAS = {
    "elu over their sum": (
        SINKS["elu"](start="zero", normalise=True),
        lambda scores, h: over_sum([s + 1 if s > 0 else math.exp(s) for s in scores]),
    ),
    "normaliser": (SINKS["normaliser"](alpha=0.4, power=3.0), lambda scores, h: normaliser(scores)),
    "sigsoftmax": (
        SINKS["sigsoftmax"](),
        lambda scores, h: over_sum([math.exp(s) * sigma(s) for s in scores]),
    ),
    "identity": (SINKS["kernel"](form="identity"), lambda scores, h: normalised(scores)),
    "identity, not normalised": (SINKS["kernel"](form="identity", normalise=False), lambda scores, h: scores),
    "alibi": (
        SINKS["alibi"](),
        lambda scores, h: over_sum(
            [math.exp(s - 2 ** (-8 * (h + 1) / H) * (len(scores) - 1 - j)) for j, s in enumerate(scores)]
        ),
    ),
}


def layer_of(sink) -> AttentionSink:
    start = sink.begin(SHAPE, None)
    layer = AttentionSink(sink.stored() | {"parameters": list(start)}, H, 1, D, 24)
    layer.load_state_dict(start)
    return layer.double()


@pytest.mark.parametrize("name", FORMULAS)
@torch.no_grad()
def test_weights_are_those_of_the_formula_and_hidden_keys_have_none(name):
    sink, formula = FORMULAS[name]
    score_1HTT = 3 * torch.randn(1, H, T, T, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    seen = torch.ones(1, 1, T, T, dtype=torch.bool).tril()
    found_HTT = layer_of(sink).weigh(score_1HTT, seen)[0]
    for h in range(H):
        for t in range(T):
            expected = formula(score_1HTT[0, h, t, : t + 1].tolist(), h)
            assert found_HTT[h, t].tolist() == pytest.approx([*expected, *[0.0] * (T - 1 - t)], rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("form", ["elu", "mlp"])
@torch.no_grad()
def test_a_kernel_compares_what_its_map_makes_of_queries_and_keys(form):
    draw = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(1, H, T, D, dtype=torch.float64, generator=draw) for _ in range(3))
    layer = layer_of(SINKS["kernel"](form=form))
    w = {}
    if form == "mlp":
        for place in (0, 2):
            w[place] = torch.randn(D, D, dtype=torch.float64, generator=draw)
            layer.feature[place].weight.copy_(w[place])

    def mapped(x):
        if form == "elu":
            return torch.where(x > 0, x + 1, x.exp())
        inner = x @ w[0].T
        return (inner * (1 + torch.erf(inner / math.sqrt(2))) / 2) @ w[2].T

    out_THD = layer(q, k, v, None, D**-0.5, 0.0, None)[0][0]
    for h in range(H):
        for t in range(T):
            product_S = mapped(k[0, h, : t + 1]) @ mapped(q[0, h, t]) / math.sqrt(D)
            total = product_S.sum() if form == "elu" else product_S.sum().abs().clamp(min=1)
            assert torch.allclose(out_THD[t, h], product_S @ v[0, h, : t + 1] / total, rtol=1e-10)


def test_the_fixed_values_of_a_kv_bias_are_as_published_and_do_not_learn():
    for direction, value in (("one", [5.0] + [0.0] * (D - 1)), ("even", [5 / math.sqrt(D)] * D)):
        layer = layer_of(SINKS["fixed_kv_bias"](direction=direction, norm=5.0, channels=3))
        assert layer.value[0].tolist() == pytest.approx(value)
        assert not layer.value.requires_grad
        assert layer.key.requires_grad
        layer.key.data.fill_(1.0)
        assert layer.whole_key[0].tolist() == [1.0] * 3 + [0.0] * (D - 3)


def test_sinusoids_are_those_of_the_formula_as_long_as_new_embeddings_and_in_the_first_layer_alone():
    sink = SINKS["positions"](form="sinusoidal", length=7)
    starts = sink.starts([SHAPE] * 3)
    assert starts[1:] == [None, None]
    table_TC = starts[0]["position"].double()
    for t in range(7):
        for c in range(24):
            angle = t / 10_000 ** ((c - c % 2) / 24)
            wave = math.cos(angle) if c % 2 else math.sin(angle)
            assert table_TC[t, c].item() == pytest.approx(0.02 * math.sqrt(2) * wave, abs=1e-7)
    assert table_TC.square().mean().sqrt().item() == pytest.approx(0.02, rel=1e-6)
