"""Heads that a calibration chooses: as trying each by itself does, whatever is left out on the way."""

import json
from itertools import count

import numpy as np
import pytest
import torch
from families import HYBRID, STREAMED, in_float64, tiny

import sinkctl as product
from sinkctl.cache.policies import SinkWindow
from sinkctl.cache.redistribution.settings import Redistribution
from sinkctl.errors import Interrupted, TextError, UsageError
from sinkctl.kernels import gate
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.load import validate
from sinkctl.tasks.stream.calibration import _Losses, calibrated
from sinkctl.tasks.stream.scorers import BlockScorer

SIZES = dict(samples=2, length=40)


def recipe_of(*ways, policy=None, **settings):
    policies = [{**(policy or {"kind": "sink_window", "window": 60}), "redistribute": way} for way in ways]
    return validate({"task": "stream", "policies": policies, "limit": 500, **settings})


def sample(tokens=30):
    ids = torch.randint(3, 64, (tokens + 1,), generator=torch.Generator().manual_seed(5))
    return ids[:-1], ids[1:]


@pytest.mark.parametrize("family", ["llama", "gemma2", "falcon_alibi", "gpt_oss", "qwen3_next", "zamba2"])
def test_layers_that_are_not_run_again_change_no_loss(family, monkeypatch):
    if family in HYBRID:
        in_float64(monkeypatch)
    loaded = LoadedModel(tiny(*(STREAMED | HYBRID)[family]), None, "tiny", "in memory")
    losses = _Losses(loaded, SinkWindow(sinks=1, window=12), [sample(), sample(9)])
    last = [losses.heads[-1]]
    whole, plain = losses.mean(0.5, last), losses.mean()
    for _ in losses.layers[:-1]:
        losses.move_on()
    assert (losses.mean(0.5, last), losses.mean()) == (whole, plain)
    assert whole != plain


def test_a_search_holds_losses_of_layers_against_each_other_that_run_alike(monkeypatch):
    monkeypatch.setattr(gate, "select", lambda *_: (gate.IMPLEMENTATIONS["reference"], "as on a GPU"))
    loaded, made, begin = LoadedModel(tiny(*STREAMED["llama"]), None, "tiny", "in memory"), [], BlockScorer.__init__

    def counted(scorer, *args, **options):
        begin(scorer, *args, **options)
        made.append(scorer._own)

    losses = _Losses(loaded, SinkWindow(sinks=1, window=12), [sample()])
    monkeypatch.setattr(BlockScorer, "__init__", counted)
    losses.mean()
    losses.move_on()
    losses.mean()
    assert made == [None] * 3
    assert BlockScorer(loaded, SinkWindow(sinks=1, window=12))._own is not None


def test_heads_are_chosen_whose_loss_alone_falls(stories, book):
    (found,) = (
        p.redistribute.found
        for p in calibrated(recipe_of({"share": 0.5, "heads": "calibrate", **SIZES}), stories).policies
    )
    ids = torch.tensor(stories.tokenizer(book, add_special_tokens=False).input_ids)[-80:]
    bos = torch.tensor([stories.bos_id])

    def loss(redistribute):
        policy = SinkWindow(window=60, redistribute=redistribute)
        parts = [BlockScorer(stories, policy).step(torch.cat([bos, x[:-1]]), x) for x in ids.split(40)]
        return float(np.concatenate(parts).mean(dtype=np.float64))

    every = [(f.number, head) for f in stories.layers(64) for head in range(f.heads)]
    alone = [head for head in every if loss(Redistribution(share=0.5, heads=(head,))) < loss(None)]
    assert 0 < len(alone) < len(every)
    assert list(found.heads) == alone
    assert (found.among, found.tokens) == (len(every), 80)
    assert found.before == loss(None)
    assert found.after == loss(Redistribution(share=0.5, heads=tuple(alone)))


def test_random_heads_are_as_many_by_their_seed_and_one_search_serves_all(stories):
    by_layer = {"share": 0.3, "by": "layer", **SIZES}
    ways = [{**by_layer, "heads": "calibrate"}, *({**by_layer, "heads": "random", "seed": s} for s in (0, 1, 1))]
    searched = []
    done = calibrated(recipe_of(*ways), stories, lambda what, share: searched.append(share))
    chosen, *drawn = (policy.redistribute.found for policy in done.policies)
    assert len(searched) == 5  # layers
    assert {len([h for h in chosen.heads if h[0] == layer]) for layer in range(5)} == {0, chosen.among // 5}
    assert {len(found.heads) for found in drawn} == {len(chosen.heads)}
    assert drawn[0].heads != drawn[1].heads == drawn[2].heads != chosen.heads
    assert calibrated(done, stories) == done  # a kept recipe needs no search


def test_calibrating_stops_where_asked(demo):
    asked = count()
    with pytest.raises(Interrupted, match="nothing was kept"):
        calibrated(recipe_of({"share": 0.5, "heads": "calibrate", **SIZES}), demo, stop=lambda: next(asked) == 3)


def test_texts_that_are_scored_or_too_short_are_refused(demo, tmp_path):
    (tmp_path / "short.txt").write_text("It was so.", encoding="utf-8")
    way = {"share": 0.5, "heads": "calibrate"}
    with pytest.raises(TextError, match=r"short.txt: \d+ tokens, and calibrating takes 2,048; give a longer"):
        calibrated(recipe_of({**way, "files": [str(tmp_path / "short.txt")]}), demo)
    with pytest.raises(UsageError, match=r"the last 2,048 tokens .*; give --limit \d+ or less"):
        calibrated(recipe_of(way, limit=1_000_000), demo)


def test_a_run_keeps_what_it_found_and_goes_on_without_searching(stories, tmp_path, book, monkeypatch):
    (tmp_path / "page.txt").write_text(book[:900], encoding="utf-8")
    ways = [{"share": 0.5, "by": "layer", **SIZES, "heads": heads} for heads in ("calibrate", "random")]
    policies = ["4+60", *({"kind": "sink_window", "window": 60, "redistribute": way} for way in ways)]
    outcome = product.stream(
        tmp_path / "page.txt", model=stories, policies=policies, chunk=100, output=tmp_path / "run"
    )
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    labels = [score["label"] for score in result["stream"]["policies"]]
    assert labels == ["4+60", "4+60, 0.5 redistributed in calibrated layers", "4+60, 0.5 redistributed in random heads"]
    found = result["stream"]["policies"][1]["settings"]["redistribute"]["found"]
    reason = result["choices"][f"heads of {labels[1]}"]
    assert reason.startswith(f"{len(found['heads'])} of {found['among']}, whose loss falls, layer by layer; together")
    assert f"{found['before']:.4f} to {found['after']:.4f} nats" in reason
    assert [line.partition(":")[0] for line in result["verdict"][1:]] == labels[1:]
    again = {**ways[0], "heads": found["heads"]}
    listed = product.stream(
        tmp_path / "page.txt", model=stories, policies=[{**policies[1], "redistribute": again}], chunk=100
    )
    assert (next(iter(listed.nll.values())) == outcome.nll[labels[1]]).all()
