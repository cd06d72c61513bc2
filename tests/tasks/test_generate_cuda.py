"""Generation on a GPU: a captured step says what an uncaptured one says, wherever its ring stands."""

import copy

import numpy as np
import pytest
import torch
from test_generate import PROMPT, recipe
from transformers import RepetitionPenaltyLogitsProcessor

from sinkctl.cache.policies import SinkWindow
from sinkctl.model.load import LoadedModel, load
from sinkctl.model.settings import ModelSettings
from sinkctl.tasks.generate import run
from sinkctl.tasks.generate.decoder import Decoder
from sinkctl.tasks.generate.sampling import Sampler

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="module")
def on_gpu() -> LoadedModel:
    return load(ModelSettings(device="cuda", dtype="float32"))


@pytest.mark.parametrize("compile_", [False, True])
def test_a_captured_step_chooses_what_an_uncaptured_one_does(on_gpu, compile_):
    settings = dict(tokens=200, sampling={"temperature": 1.0, "top_k": 50, "top_p": 0.95, "seed": 1})
    prompts = [PROMPT, "A"]
    expected = run(recipe(prompts, graph=False, compile=False, **settings), on_gpu).ids
    found = run(recipe(prompts, graph=True, compile=compile_, **settings), on_gpu).ids
    same = len(found) if not compile_ else 20  # compiled layers round otherwise, and a draw may fall on an edge
    np.testing.assert_array_equal(found[:same], expected[:same])


REPEATING = {"repetition_penalty": 1.3, "min_p": 0.02, "config": {"renormalize_logits": True}}
ON_THE_HOST = {
    "no_repeat_ngram_size": 3, "min_new_tokens": 30,
    "config": {"suppress_tokens": list(range(5, 90)), "bad_words_ids": [[300, 301], [302]], "typical_p": 0.95},
}  # fmt: skip


@pytest.mark.parametrize("processors", [REPEATING, REPEATING | ON_THE_HOST], ids=["in the graph", "after it"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_processors_choose_the_same_with_a_captured_step(on_gpu, processors, temperature):
    settings = dict(tokens=150, sampling={"temperature": temperature, "seed": 1} | processors, size=(4, 28))
    prompts = [PROMPT, "A"]
    expected = run(recipe(prompts, graph=False, **settings), on_gpu)
    found = run(recipe(prompts, graph="auto", **settings), on_gpu)
    np.testing.assert_array_equal(found.ids, expected.ids)
    assert found.result.choices["graph"].startswith("on: ")
    assert ("chosen after it" in found.result.choices["graph"]) == (processors is not REPEATING)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # Triton, and plain torch inside the graph
def test_a_captured_step_follows_its_ring_back(on_gpu, dtype):
    loaded = LoadedModel(copy.deepcopy(on_gpu.model).to(dtype), on_gpu.tokenizer, "demo", "in memory")
    processors = [RepetitionPenaltyLogitsProcessor(1.2)]
    sampler = Sampler(1, loaded.device, lambda prompt: processors, seed=0)
    decoder = Decoder(loaded, SinkWindow(sinks=4, window=28), sampler, graph=True)
    decoder.feed([torch.tensor(loaded.tokenizer("A").input_ids)], 100)

    def say(count: int) -> list[int]:
        return [int(decoder.step()) for _ in range(count)]

    empty = decoder.state()
    first = say(60)
    full = decoder.state()
    second = say(40)
    decoder.restore(*full)
    assert say(40) == second
    decoder.restore(*empty)
    assert say(60) == first


@pytest.mark.parametrize("every", [1, 7])
def test_a_captured_step_evicts_as_an_uncaptured_one_does(on_gpu, every):
    policy = {"kind": "heavy_hitter", "sinks": 1, "window": 40, "every": every}
    expected, found = (
        run(recipe([PROMPT, "A"], policy=policy, graph=graph, tokens=150), on_gpu) for graph in (False, "auto")
    )
    np.testing.assert_array_equal(found.ids, expected.ids)
    assert found.result.choices["graph"].startswith("on: ")
