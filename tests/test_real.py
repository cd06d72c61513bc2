"""What real checkpoints do, where the folder that SINKCTL_REAL names has them: smollm2.gguf, gemma.gguf.

Figures that other tools gave, or that docs/figures show: a change that moves one of them has changed what is measured.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import sinkctl as package

pytestmark = pytest.mark.real
HERE = Path(os.environ.get("SINKCTL_REAL", "."))


@pytest.fixture(scope="module")
def novel(book, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("novel") / "novel.txt"
    path.write_text(book[:24_000])
    return path


@pytest.fixture(scope="module")
def smollm2():
    return package.load(str(HERE / "smollm2.gguf"))


@pytest.fixture(scope="module")
def gemma():
    return package.load(str(HERE / "gemma.gguf"))


@pytest.mark.parametrize("name", ["smollm2", "gemma"])
def test_a_gguf_is_scored_as_transformers_scores_it(name, novel, request):
    loaded = request.getfixturevalue(name)
    stock = AutoModelForCausalLM.from_pretrained(HERE, gguf_file=f"{name}.gguf", dtype=torch.float32)
    own = package.stream(novel, model=loaded, policies="dense", limit=2000).nll["dense"]
    ids = loaded.tokenizer(novel.read_text(), return_tensors="pt").input_ids[:, : len(own) + 1]
    with torch.no_grad():
        chances = torch.log_softmax(stock(ids).logits[0, :-1].double(), -1)
    nll = -chances.gather(1, ids[0, 1:, None])[:, 0].numpy()
    assert len(own) >= 1999
    assert np.abs(own - nll).max() < 2e-3
    assert abs(own.mean(dtype=np.float64) - nll.mean()) < 2e-4


def test_one_kept_token_of_smollm2_does_what_four_do(smollm2, novel):
    found = package.stream(novel, model=smollm2, policies=["4+252", "1+255", "0+256"], limit=4000)
    four, one, none = (np.exp(found.nll[p][256:].mean(dtype=np.float64)) for p in ("4+252", "1+255", "0+256"))
    assert one == pytest.approx(four, rel=0.02)
    assert 1.5 < none / four < 2.2


def measured(loaded, **cost):
    return package.measure(loaded, cost={"run": bool(cost), **cost}, samples=40).result.measure.checkpoints[0]


def check_rates(score, with_bos: float, without: float) -> None:
    """Sink_1^0.3 in percent, within two standard errors of 40 samples of another novel."""
    rate = {each.bos: each.sinks[0].percent for each in score.inputs}
    assert rate[True] == pytest.approx(with_bos, abs=3)
    assert rate[False] == pytest.approx(without, abs=3)


def massive(score) -> dict[int, tuple[int, float]]:
    """Of the first input, by layer: channel and size of the largest activation, where it is massive in most samples."""
    found = {layer.number: layer.massive for layer in score.inputs[0].layers}
    return {number: (x.channel, x.top[0]) for number, x in found.items() if x.count > 0.5}


def test_smollm2_sinks_more_with_nothing_in_front(smollm2):
    score = measured(smollm2)
    check_rates(score, with_bos=64.0, without=71.9)
    found = massive(score)
    assert sorted(found) == list(range(11, 28))
    assert {channel for channel, _ in found.values()} == {507}
    assert max(size for _, size in found.values()) == pytest.approx(24_960, rel=0.01)


def test_a_hidden_first_key_of_smollm2_is_taken_over_and_dear_once_it_is_a_sink(smollm2):
    score = measured(smollm2, samples=6, length=256, tokens=1)
    later, scored = (
        next(line for line in score.costs if line.name.startswith("first key") and line.hidden_from == whom)
        for whom in ("every later query", "the scored queries")
    )
    assert later.perplexity / later.baseline == pytest.approx(1.006, abs=0.03)
    assert later.taken_over is not None
    assert 2 < scored.perplexity / scored.baseline < 3.2


def test_gemma_sinks_on_bos_alone(gemma):
    score = measured(gemma)
    check_rates(score, with_bos=80.4, without=0.0)
    found = massive(score)
    assert set(range(14)) <= set(found)
    assert {channel for channel, _ in found.values()} == {163, 400}
