"""Products of linear layers against float64, and a model that runs by them inside a `with`, the stock one outside."""

import pytest
import torch
from families import STREAMED, tiny
from torch import nn

from sinkctl.kernels.linear import IMPLEMENTATIONS, select
from sinkctl.model import linear
from sinkctl.model.linear import fast_linear

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
ROUNDING = 2.0**-24  # of float32


@needs_onednn
@pytest.mark.parametrize("shape", [(1,), (2, 3), (2, 40)], ids=str)
def test_products_err_less_than_float32_sums_may(shape):
    """|error| ≤ γ (|x| |W|ᵀ + |b|), γ = nu / (1 − nu) for sums of n terms (Higham 2002, §3.1)."""
    generator, terms = torch.Generator().manual_seed(0), 1500
    x, weight = torch.randn(*shape, terms, generator=generator), torch.randn(70, terms, generator=generator)
    bias = torch.randn(70, generator=generator)
    for b in (None, bias):
        exact, sizes = (x.double() @ weight.double().T, x.double().abs() @ weight.double().abs().T)
        exact, sizes = (exact, sizes) if b is None else (exact + b.double(), sizes + b.double().abs())
        bound = (terms + 1) * ROUNDING / (1 - (terms + 1) * ROUNDING)
        with torch.no_grad():
            for run in IMPLEMENTATIONS.values():
                assert ((run(x, weight, b).double() - exact).abs() <= bound * sizes).all(), run.name


def test_only_float32_on_a_cpu_is_chosen_for():
    for weight in (torch.zeros(2, 2, dtype=torch.float64), torch.zeros(2, 2, device="meta")):
        assert select(weight)[0].name == "torch"


@needs_onednn
def test_a_model_runs_by_what_was_chosen_and_then_as_it_did_before(monkeypatch):
    onednn, chosen = IMPLEMENTATIONS["onednn"], []
    monkeypatch.setattr(linear, "select", lambda weight: chosen.append(weight) or (onednn, "asked for"))
    model = tiny(*STREAMED["qwen2"], torch.float32)  # with biases
    ids = torch.arange(3, 40)[None]
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    with torch.no_grad():
        stock = model(input_ids=ids, use_cache=False).logits
        with fast_linear(model) as why:
            assert why == "onednn: asked for"
            assert all("forward" in vars(layer) for layer in layers)
            torch.testing.assert_close(model(input_ids=ids, use_cache=False).logits, stock, rtol=0, atol=1e-5)
    assert {id(weight) for weight in chosen} == {id(layer.weight) for layer in layers}
    assert not any("forward" in vars(layer) for layer in layers)
    with fast_linear(model):  # gradients go the stock way
        model(input_ids=ids, labels=ids).loss.backward()
    assert layers[0].weight.grad.abs().sum() > 0
