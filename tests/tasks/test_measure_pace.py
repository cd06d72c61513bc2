"""Streams that share their beginning, sizes within a budget, and what is left of a stopped run."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from families import STREAMED, tiny

from sinkctl.cache.policies import SinkWindow
from sinkctl.errors import Interrupted
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import CostSettings, InputSettings, MeasureRecipe
from sinkctl.tasks.measure import pace, run
from sinkctl.tasks.measure.streamed import streamed
from sinkctl.tasks.stream.scorers import scorer_for

NO_COST = CostSettings(run=False)


@pytest.fixture
def short(book, tmp_path) -> str:
    path = tmp_path / "short.txt"
    path.write_text(book[:20_000])
    return str(path)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_two_streams_that_share_their_beginning_equal_two_that_do_not(family, demo, short):
    kind, settings = STREAMED[family]
    model = LoadedModel(tiny(kind, settings | dict(vocab_size=4096)), demo.tokenizer, "tiny", "in memory")
    cost = CostSettings(window=12, tokens=90)
    recipe = MeasureRecipe(input=InputSettings(files=(short,), bos="off"), cost=cost)
    seen = []
    line = streamed(recipe, model, seen.append, lambda: None)
    ids_T = torch.tensor(demo.tokenizer(Path(short).read_text()[:2000], add_special_tokens=False)["input_ids"][:91])
    for policy, found in (
        (SinkWindow(sinks=4, window=12), line.baseline),
        (SinkWindow(sinks=0, window=16), line.perplexity),
    ):
        nll_T = scorer_for(model, policy, False).step(ids_T[:-1], ids_T[1:]).astype(np.float64)
        assert found == pytest.approx(math.exp(nll_T[16 : 16 + line.tokens].mean()), rel=1e-10)
    assert sum(seen) == 16 + 2 * line.tokens
    assert line.error > 0


def test_a_budget_chooses_sizes_that_fit_it(demo):
    recipe = MeasureRecipe()
    for seconds in (20.0, 60.0, 300.0):
        sized = pace.within(recipe, demo, 2, seconds, 2e-3)
        assert 0.5 * seconds < 2e-3 * sum(pace.work(sized, demo, 2)) <= seconds
        assert sized.input.samples <= recipe.input.samples
    least = pace.within(recipe, demo, 2, 0.0, 2e-3)
    assert (least.input.samples, least.cost.samples) == (pace.LEAST_INPUTS, pace.LEAST_SAMPLES)
    assert [pace.seconds_of(x) for x in ("60s", "5m", "1.5h")] == [60, 300, 5400]


def test_the_sizes_of_a_budget_are_said_and_kept(demo, short, tmp_path, monkeypatch):
    monkeypatch.setattr("sinkctl.tasks.measure.checkpoint.probed", lambda *_: 1.0)  # a second a token: hardly any fit
    recipe = MeasureRecipe(input=InputSettings(files=(short,), bos="auto"), budget="5s", cost=CostSettings(length=64))
    asked = iter([False, True])
    with pytest.raises(Interrupted):
        run(recipe, demo, output=tmp_path / "kept", stop=lambda: next(asked, True))
    monkeypatch.setattr("sinkctl.tasks.measure.checkpoint.probed", lambda *_: 1e-9)
    result = run(recipe, demo, output=tmp_path / "kept", resume=True).result
    assert result.choices["budget"].startswith("5s: 4 samples an input, 2 of the costs, 1 tokens streamed; a probe")
    score = result.measure.checkpoints[0]
    assert score.inputs[0].samples == 4
    assert any(note.startswith("Nothing was streamed: as many tokens as cost.tokens asks for") for note in score.notes)


def test_a_stopped_run_leaves_a_partial_report_and_goes_on(demo, short, tmp_path):
    recipe = MeasureRecipe(input=InputSettings(files=(short,), samples=4, length=32), cost=NO_COST, batch=2)
    told = []

    def one_is_done() -> bool:
        return any(line.startswith("natural, BOS: ") for now in told for line in now.found)

    with pytest.raises(Interrupted) as stopped:
        run(recipe, demo, output=tmp_path / "kept", stop=one_is_done, progress=told.append)
    part = stopped.value.result
    assert not part.complete
    assert [score.name for score in part.measure.checkpoints[0].inputs] == ["natural, BOS"]
    assert '"complete": false' in (tmp_path / "kept" / "result.json").read_text()
    whole = run(recipe, demo, output=tmp_path / "kept", resume=True, progress=told.append).result
    assert whole.complete
    assert len(whole.measure.checkpoints[0].inputs) == 2
    said = [now.found for now in told if now.found]
    assert said[-1] == tuple(whole.verdict[:2])
    assert said[0][0].startswith("natural, BOS, first 2 samples: ")
    assert [line.partition(" ")[0] for line in said[0][1:]] == ["Layers", "No"]  # what its verdict says of them
    assert said[1][0].startswith("natural, BOS: ")
    assert len(said) == 6  # one input before the stop, twice; it and the other one after, twice; and all together
    assert all(a.share <= b.share for a, b in zip(told[:3], told[1:3], strict=False))
    assert told[2].seconds_left > 0
