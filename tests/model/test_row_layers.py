"""Layers run by row_products against the layers of transformers."""

import copy

import pytest
import torch
from families import STREAMED, in_float64, tiny

from sinkctl.cache.policies import SinkWindow
from sinkctl.kernels.row_products import IMPLEMENTATIONS
from sinkctl.model.compiled import blocks_of
from sinkctl.model.load import LoadedModel
from sinkctl.model.row_layers import RowLayers, misfit, row_layers
from sinkctl.tasks.generate.decoder import Decoder
from sinkctl.tasks.generate.sampling import Sampler

FITTING = ["llama", "llama_llama3", "mistral", "qwen2"]


def made(family: str):
    return tiny(*STREAMED[family]).eval()


def decoder(model, graph: bool = False, rows: int = 1) -> Decoder:
    loaded = LoadedModel(model, None, "tiny", "in memory")
    sampler = Sampler(rows, loaded.device, greedy=True)
    made = Decoder(loaded, SinkWindow(sinks=2, window=6), sampler, rows=rows, graph=graph)
    made.feed([torch.arange(3 + row, 13 + row) for row in range(rows)], 4)
    return made


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("family", FITTING)
def test_steps_give_the_logits_that_the_layers_of_transformers_give(family, rows, monkeypatch):
    in_float64(monkeypatch)
    model = made(family)
    stock, own = decoder(copy.deepcopy(model), rows=rows), decoder(model, rows=rows)
    blocks = blocks_of(model, own._lengths.last.layers)
    assert misfit(model, blocks) is None
    own._layers = RowLayers(model, blocks, IMPLEMENTATIONS["reference"])
    for _ in range(8):
        assert torch.equal(stock.step(), own.step())
        torch.testing.assert_close(own._logits_BV, stock._logits_BV, rtol=0, atol=1e-12)
    assert len(own._layers._calls) == len(blocks) + 3  # the angles, the last norm and the head
    assert all(part._compiled_call_impl is None for part in model.modules())


@pytest.mark.parametrize(
    ("family", "why"),
    [("gemma2", "Gemma2DecoderLayer is not one of"), ("llama_yarn", "its rotary embedding scales")],
)
def test_other_layers_say_what_keeps_them_out(family, why):
    model = made(family)
    assert misfit(model, list(model.model.layers)).startswith(why)


def test_what_is_done_to_a_layer_keeps_it_out():
    model = made("llama")
    blocks = list(model.model.layers)
    assert row_layers(model, blocks, 33) == (None, "a step has 33 rows, and the kernel is for 32 at most")
    assert row_layers(model, blocks, 1) == (None, "no kernel for cpu in torch.float64")
    hook = blocks[1].mlp.register_forward_hook(lambda *_: None)
    assert misfit(model, blocks) == "something is hooked into its layers"
    hook.remove()
    blocks[1].mlp.up_proj = torch.nn.Sequential(blocks[1].mlp.up_proj, torch.nn.Linear(48, 48))
    assert misfit(model, blocks) == "an adapter, or another kind of weights, is in its layers"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("family", FITTING)
def test_captured_steps_on_a_gpu_are_as_close_to_float64_as_the_layers_of_transformers(family, rows):
    model = made(family)
    half = [copy.deepcopy(model).to("cuda", torch.bfloat16) for _ in range(2)]
    truth, stock = decoder(model, rows=rows), decoder(half[0], rows=rows)
    own = decoder(half[1], graph=True, rows=rows)
    stock._layers = None
    if rows > 1:  # chosen for wide matrices alone
        blocks = blocks_of(half[1], own._lengths.last.layers)
        own._layers, own._layers_why = RowLayers(half[1], blocks, IMPLEMENTATIONS["triton"]), "triton: given"
    assert own.choices["row_products"].startswith("triton: ")
    errors = torch.zeros(2)
    for _ in range(20):
        for each in (truth, stock, own):
            each.ids_B.fill_(7)  # the same text, whatever they would have chosen
            each.step()
        errors += torch.stack([(each._logits_BV.cpu() - truth._logits_BV).norm() for each in (stock, own)])
    assert errors[1] <= 2 * errors[0]
