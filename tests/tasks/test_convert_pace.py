"""How far a conversion is, and that it stops inside a forward pass."""

import pytest
import torch
from families import STREAMED, tiny

from sinkctl.cache.policies import SinkWindow
from sinkctl.errors import Interrupted
from sinkctl.model.load import LoadedModel
from sinkctl.recipe.schema import ConvertRecipe
from sinkctl.tasks.convert import run
from sinkctl.tasks.convert.calibrate import calibrate, sample_length
from sinkctl.tasks.pace import Pace
from sinkctl.tasks.stopping import stoppable
from sinkctl.tasks.stream.scorers import scorer_for

QUICK = {"calibration": {"samples": 4, "window": 16}, "evaluation": {"tokens": 256, "samples": 2, "length": 32}}


def whole(told: list, demo, path, **settings) -> None:
    run(ConvertRecipe.model_validate(QUICK | settings), demo, output=path, progress=told.append)


def test_the_share_done_follows_the_work_to_its_end(demo, tmp_path):
    told = []
    whole(told, demo, tmp_path / "out")
    shares = [now.share for now in told]
    assert shares == sorted(shares)
    assert 0.98 < shares[-1] <= 1
    assert told[1].seconds_left > 0, "an estimate before anything is done"
    calibrating = [now for now in told if now.what == "calibrating"]
    assert len(calibrating) == 1 + demo.model.config.num_hidden_layers, "each layer, of the samples of one pass"


def test_the_share_done_of_a_training_is_of_both_checkpoints(demo, tmp_path):
    told = []
    training = {"length": 64, "batch": 2, "probe": None, "text": {"files": []}}
    whole(told, demo, tmp_path / "out", steps=2, training=training, evaluation={"run": False})
    shares = [now.share for now in told]
    assert shares == sorted(shares)
    assert 0.98 < shares[-1] <= 1
    assert {now.what.partition(":")[0] for now in told if "training" in now.what} == {
        "training the converted checkpoint", "training the control checkpoint",
    }  # fmt: skip


@pytest.mark.parametrize("after", [1, 8, 40])
def test_a_block_asks_whether_to_stop(after, demo):
    asked, ids_BT = [], torch.tensor([[1, 5]]).expand(2, 2)
    with stoppable(demo.model, lambda: asked.append(1) or len(asked) > after):
        for _ in range(after // demo.model.config.num_hidden_layers):
            demo.model(input_ids=ids_BT)
        with pytest.raises(Interrupted):
            demo.model(input_ids=ids_BT)
    assert len(asked) == after + 1
    demo.model(input_ids=ids_BT)
    assert len(asked) == after + 1, "the hooks are gone"


def test_with_alibi_what_calibration_answers_is_the_stream():
    """Each of its samples ends as the stream of the same cache does."""
    model = tiny(*STREAMED["bloom"], dtype=torch.float64)
    loaded, window = LoadedModel(model, None, "bloom", "in memory"), 7
    ids_T = torch.randint(3, 64, (sample_length(window),), generator=torch.Generator().manual_seed(1))
    loaded.layers(window + 1)  # probes it
    kept, seen = {}, model.transformer.h[-1].self_attention
    with_hook = seen.dense.register_forward_pre_hook(lambda _, inputs: kept.setdefault(len(kept), inputs[0]))
    calibrate(loaded, [ids_T], window)
    scorer_for(loaded, SinkWindow(sinks=1, window=window), bos=False).step(ids_T[:-1], ids_T[1:])
    with_hook.remove()
    torch.testing.assert_close(kept[0][:, :-1], kept[1], rtol=0, atol=1e-12)


def test_time_in_which_a_text_is_read_is_not_taken_for_the_pace_of_training(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    pace = Pace(1000.0, None, began=100.0)
    with pace.aside():
        now[0] += 5000
    now[0] += 10
    pace.do(100)
    assert pace.seconds_left == pytest.approx(90)
