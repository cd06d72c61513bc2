"""Linear modules of one input computed in one product, and as they were afterwards."""

import pytest
import torch
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from sinkctl.kernels.row_products import row_products
from sinkctl.model import products
from sinkctl.model.products import RowProducts


@pytest.fixture
def model():
    """With biases on queries, keys and values."""
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2, vocab_size=50)
    return Qwen2ForCausalLM(Qwen2Config(num_hidden_layers=2, **sizes)).eval()


@torch.no_grad()
def test_modules_of_one_input_share_a_product_and_are_as_they_were_afterwards(model, monkeypatch):
    calls = []

    def counted(x_K, weights_NK):
        calls.append(len(weights_NK))
        return row_products(x_K, weights_NK)

    monkeypatch.setattr(products, "select", lambda weights_NK: (counted, "to count"))
    layers, row, text = list(model.model.layers), torch.tensor([[7]]), torch.tensor([[7, 8, 9]])
    before, truth, truth_of_text = dict(vars(layers[0].mlp.gate_proj)), model(row).logits, model(text).logits
    with RowProducts(layers).active():
        torch.testing.assert_close(model(row).logits, truth, rtol=0, atol=1e-6)
        assert calls == [3, 1, 2, 1] * 2
        torch.testing.assert_close(model(text).logits, truth_of_text)  # not a single row
        other = layers[0].self_attn.k_proj(torch.ones(1, 32))  # not what q_proj was given
    torch.testing.assert_close(other, layers[0].self_attn.k_proj(torch.ones(1, 32)))
    assert calls == [3, 1, 2, 1] * 2 + [1]
    assert vars(layers[0].mlp.gate_proj).keys() == before.keys()
    assert {type(module) for module in model.modules() if isinstance(module, nn.Linear)} == {nn.Linear}


def test_modules_with_a_forward_of_their_own_are_left_alone(model, monkeypatch):
    monkeypatch.setattr(products, "select", lambda weights_NK: (row_products, ""))
    mlp = model.model.layers[0].mlp
    mlp.up_proj.forward = mlp.up_proj.forward
    with RowProducts([mlp]).active():
        assert type(mlp.up_proj) is nn.Linear
        assert type(mlp.gate_proj) is not nn.Linear
    assert not RowProducts(())
