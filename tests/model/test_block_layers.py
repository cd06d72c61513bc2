"""Layers of a block, run with sums in the epilogues of products, against the layers of transformers."""

import copy

import pytest
import torch
from families import STREAMED, in_float64, tiny

from sinkctl.cache import blocks as cache_in_blocks
from sinkctl.cache.policies import SinkWindow
from sinkctl.kernels import gate
from sinkctl.kernels.gate import IMPLEMENTATIONS
from sinkctl.model.block_layers import BlockLayers, block_layers, worth_compiling_blocks
from sinkctl.model.compiled import blocks_of
from sinkctl.model.load import LoadedModel
from sinkctl.tasks.generate.decoder import Decoder
from sinkctl.tasks.generate.sampling import Sampler
from sinkctl.tasks.stream.scorers import BlockScorer

FITTING = ["llama", "llama_llama3", "mistral", "qwen2"]


def made(family: str):
    return tiny(*STREAMED[family]).eval()


def scorer(model) -> BlockScorer:
    return BlockScorer(LoadedModel(model, None, "tiny", "in memory"), SinkWindow(sinks=2, window=6))


def scored(by: BlockScorer) -> torch.Tensor:
    ids_T = torch.arange(3, 44) % 40
    return torch.cat([torch.from_numpy(by.step(ids_T[i : i + 8], ids_T[i + 1 : i + 9])) for i in range(0, 40, 8)])


@pytest.mark.parametrize("family", FITTING)
def test_blocks_get_the_losses_that_the_layers_of_transformers_give(family, monkeypatch):
    in_float64(monkeypatch)
    model = made(family)
    stock, own = scorer(copy.deepcopy(model)), scorer(model)
    assert stock._own is None  # on a CPU nothing is gained
    blocks = blocks_of(model, own.facts)
    own._own = BlockLayers(blocks, IMPLEMENTATIONS["reference"], [model.model.norm])
    torch.testing.assert_close(scored(own), scored(stock), rtol=0, atol=1e-12)
    assert all(block._compiled_call_impl is None for block in blocks)
    side_by_side = torch.arange(24).view(3, 8)
    for ours, theirs in zip(*(by.texts(side_by_side, side_by_side + 1, [8, 5, 2]) for by in (own, stock)), strict=True):
        torch.testing.assert_close(torch.from_numpy(ours), torch.from_numpy(theirs), rtol=0, atol=1e-12)


def test_prompts_of_two_lengths_are_taken_in_as_by_the_layers_of_transformers(monkeypatch):
    in_float64(monkeypatch)
    model = made("llama")
    stock, own = (
        Decoder(LoadedModel(each, None, "tiny", "in memory"), SinkWindow(sinks=2, window=6),
                Sampler(2, torch.device("cpu"), greedy=True), rows=2)
        for each in (copy.deepcopy(model), model)
    )  # fmt: skip
    assert own._blocks is None
    own._blocks = BlockLayers(list(model.model.layers), IMPLEMENTATIONS["reference"], [model.model.norm])
    for each in (stock, own):
        each.feed([torch.arange(3, 20), torch.arange(9, 20)], 5)
        each.step()
    torch.testing.assert_close(own._logits_BV, stock._logits_BV, rtol=0, atol=1e-12)


def test_values_of_a_full_cache_are_projected_to_where_attention_reads_them(monkeypatch):
    own, taken, join = scorer(made("llama")), [], cache_in_blocks._joined

    def joined(past, new, room=None):
        out = join(past, new, room)
        taken.append(room is not None and out is room)
        return out

    monkeypatch.setattr(cache_in_blocks, "_joined", joined)
    own._own = BlockLayers(blocks_of(own.loaded.model, own.facts), IMPLEMENTATIONS["reference"])
    scored(own)
    assert sum(taken) == 3 * len(own.facts)  # of five blocks the first has no past, and the second fills the cache


def test_layers_that_do_not_fit_say_why():
    model = made("llama")
    assert block_layers(model, list(model.model.layers)) == (None, "no kernel for cpu in torch.float64")
    model.model.layers[1].mlp.up_proj.half()
    assert block_layers(model, list(model.model.layers)) == (None, "its weights are of several kinds")
    model = made("gemma2")
    assert block_layers(model, list(model.model.layers))[1].startswith("Gemma2DecoderLayer is not one of")


def test_what_is_done_to_the_last_norm_or_to_a_layer_is_done(monkeypatch):
    monkeypatch.setattr(gate, "select", lambda *_: (IMPLEMENTATIONS["reference"], "told to"))
    for does in ("hooks the norm", "replaces its forward", "hooks a layer"):
        model, plain = made("llama"), scored(scorer(made("llama")))
        norm, first = model.model.norm, model.model.layers[0]
        if does == "replaces its forward":
            norm.forward = lambda x, own=norm.forward: own(x + 1)
        else:
            (norm if does == "hooks the norm" else first).register_forward_pre_hook(lambda _, x: (x[0] + 1, *x[1:]))
        own = scorer(model)
        assert (own._own is None) == (does == "hooks a layer")
        stock = scorer(model)
        stock._own = None
        torch.testing.assert_close(scored(own), scored(stock), rtol=0, atol=1e-5)
        assert (scored(scorer(model)) - plain).abs().max() > 0.01, does


def test_what_is_hooked_in_later_is_done_too():
    model = made("llama")
    own, plain = scorer(model), scored(scorer(model))
    own._own = BlockLayers(blocks_of(model, own.facts), IMPLEMENTATIONS["reference"])
    with model.model.layers[1].register_forward_hook(lambda _, __, out: out + 1):
        expected, found = scored(scorer(model)), scored(own)
    assert torch.equal(found, expected)
    assert not torch.equal(found, plain)


def test_layers_are_compiled_where_asked_for_alone(monkeypatch):
    model, cpu = made("llama"), torch.device("cpu")
    assert worth_compiling_blocks(model, cpu, 1e9) == (False, "only pays on a GPU")
    monkeypatch.setattr(gate, "select", lambda *_: (IMPLEMENTATIONS["reference"], "told to"))
    assert worth_compiling_blocks(model, cpu, 1e9) == (False, "its layers need nothing compiled")
    assert scorer(model).choices["layers"].endswith("(told to)")
    loaded = LoadedModel(model, None, "tiny", "in memory")
    assert "layers" not in BlockScorer(loaded, SinkWindow(sinks=2, window=6), compile_size=8).choices


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", FITTING)
def test_blocks_on_a_gpu_are_as_close_to_float64_as_the_layers_of_transformers(family):
    model = made(family)
    half = [copy.deepcopy(model).to("cuda", torch.bfloat16) for _ in range(2)]
    truth, stock, own = scorer(model), scorer(half[0]), scorer(half[1])
    stock._own = None
    assert own.choices["layers"].startswith("sums in the epilogues")
    exact, by_torch, by_own = (scored(by).double() for by in (truth, stock, own))
    assert (by_own - exact).norm() <= 2 * (by_torch - exact).norm()
