"""Tokens to keep where keys and values are rounded, in a model whose massive activations were put in by hand."""

import json

import pytest
import torch
from carrier import HEAD, carrier

from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import CostSettings, InputSettings, MeasureRecipe
from sinkctl.report.measured import predicted_table, prefix
from sinkctl.result.measure import PredictedToken
from sinkctl.tasks.measure import run

CHANNEL, MARK, OTHER = 7, 2, 3
BOS, MASSIVE, UNATTENDED, UNTOLD = 1, 5, 6, 9  # ids; the last is a sink without a massive activation


def planted() -> LoadedModel:
    """Layer 0 writes ±5,000 into channel 7 of marked tokens; the heads of layer 1 sink on +5,000, and on `UNTOLD`.

    Layer 0's own heads sink on BOS; layer 2 writes another massive activation, which nothing reads.
    """
    loaded = carrier([[3.0, 3.0]] * 3, kv_heads=2)
    model = loaded.model.model
    with torch.no_grad():
        rows = model.embed_tokens.weight
        rows[:, [CHANNEL, MARK, OTHER]] = torch.tensor([0.0, -1.0, -1.0])
        rows[[BOS, MASSIVE, UNATTENDED], MARK] = 1.0
        rows[UNATTENDED, OTHER] = 1.0
        rows[UNTOLD, 0] = 1.0
        for layer in (model.layers[0], model.layers[2]):
            write(layer.mlp)
        keys = model.layers[1].self_attn.k_proj.weight
        keys.zero_()
        pair = HEAD // 2 - 1
        keys[pair, CHANNEL] = 4.0  # group 0: the sign of channel 7, of size √32 once the norm has been
        keys[HEAD + pair, :2] = 4.0  # group 1: x₀ + x₁, which is 0 for ordinary tokens and nearly so for massive ones
    return loaded


def write(mlp) -> None:
    """x₂ > 0 adds 5,000 · (−x₃) to channel 7."""
    with torch.no_grad():
        mlp.gate_proj.weight[0, MARK], mlp.up_proj.weight[0, OTHER] = 20.0, 1.0
        mlp.down_proj.weight[CHANNEL, 0] = -250.0


@pytest.fixture
def records(tmp_path):
    """Four samples: a told sink at 20 + n, and near the end; a massive token at 30 + n; an untold sink at 10."""
    path = tmp_path / "records.jsonl"
    lines = []
    for n in range(4):
        ids = [20 + (n + 3 * i) % 40 for i in range(63)]
        ids[9], ids[19 + n], ids[29 + n], ids[60] = UNTOLD, MASSIVE, UNATTENDED, MASSIVE
        lines.append(json.dumps({"text": " ".join(f"w{token}" for token in ids)}))
    path.write_text("\n".join(lines))
    return (str(path),)


def measured(loaded, files, **settings):
    shown = InputSettings(files=files, bos="on", samples=4)
    return run(MeasureRecipe(input=shown, cost=CostSettings(run=False), **settings), loaded).result


def test_planted_massive_activations_tell_their_tokens_and_the_setting(records):
    result = measured(planted(), records)
    (score,) = result.measure.checkpoints[0].inputs
    found = score.predicted
    assert (found.layer, found.channels, found.keep, found.left) == (0, [CHANNEL], "first:1", 8)
    assert found.tokens == [
        PredictedToken(token=None, predicted=4, right=4, position=0),
        PredictedToken(token="w5", predicted=4, right=4, position=21.5),
        PredictedToken(token="w6", predicted=4, right=0, position=31.5),
    ]
    assert (found.all.predicted, found.all.sinks, found.all.right) == (12, 12, 8)
    assert (found.besides_first.predicted, found.besides_first.sinks, found.besides_first.right) == (8, 8, 4)
    assert prefix(score) == ["w5", "w6", score.first_tokens[0]], "three places a sample"
    assert any("“w5” “w6”" in line for line in predicted_table(score).legend)
    named = {m.name: m.samples for m in result.measurements}
    assert named["predicted.precision"] == named["predicted.recall"] == pytest.approx([200 / 3])
    assert result.verdict[-1] == (
        "Where keys and values are rounded, keep the first token in full (sinkctl stream --kv 4bit --kv-keep first:1): "
        "that is 4 of the 12 places massive in channel 7 after layer 0, 8 of them sinks of later layers; "
        "--kv-keep predicted keeps them all; of 8 other sinks, this names 4."
    )


def test_batches_count_as_one(records):
    whole, parts = (measured(planted(), records, batch=size).measure.checkpoints[0].inputs[0] for size in (4, 3))
    assert parts.predicted == whole.predicted


def test_without_massive_activations_or_without_both_parts_nothing_is_said(records):
    plain = carrier([[3.0, 3.0]] * 2)
    for result in (measured(plain, records), *(measured(planted(), records, parts=(part,)) for part in
                                               ("attention", "activations"))):  # fmt: skip
        (score,) = result.measure.checkpoints[0].inputs
        assert score.predicted is None
        assert not any("rounded" in line for line in result.verdict)
        assert not any(m.name.startswith("predicted") for m in result.measurements)


def test_a_massive_token_that_stands_in_one_place_is_among_the_first_that_are_kept(tmp_path):
    path = tmp_path / "records.jsonl"
    ids = [MASSIVE if i == 3 else 20 + i % 40 for i in range(63)]
    path.write_text("\n".join([json.dumps({"text": " ".join(f"w{token}" for token in ids)})] * 4))
    result = measured(planted(), (str(path),))
    found = result.measure.checkpoints[0].inputs[0].predicted
    assert (found.keep, found.left, found.all.precision, found.all.recall) == ("first:5", 0, 100, 100)
    assert "keep the first 5 tokens in full" in result.verdict[-1]


def test_a_massive_token_that_no_head_sinks_on_is_no_reason_to_keep_all_before_it(tmp_path):
    """Gemma-3-270m's commas: two samples of four had one at 688, and 689 tokens were to be kept."""
    path = tmp_path / "records.jsonl"
    ids = [UNATTENDED if i == 40 else 20 + i % 40 for i in range(63)]
    path.write_text("\n".join([json.dumps({"text": " ".join(f"w{token}" for token in ids)})] * 4))
    found = measured(planted(), (str(path),)).measure.checkpoints[0].inputs[0].predicted
    assert (found.keep, found.left, found.all.predicted, found.all.right) == ("first:1", 4, 8, 4)
