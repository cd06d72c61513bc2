"""What recurrent layers carry: through blocks, past padding, into files and back; and who is refused for it."""

import pytest
import safetensors.torch
import torch
from families import HYBRID, in_float64, tiny

from sinkctl.cache.policies import SinkWindow
from sinkctl.errors import ModelError
from sinkctl.model import families
from sinkctl.model.attention import attached, hidden_states
from sinkctl.model.compiled import worth_compiling
from sinkctl.model.handler import Handler
from sinkctl.model.load import LoadedModel
from sinkctl.model.probe import probe
from sinkctl.model.recurrent import recurrent_cache
from sinkctl.tasks.stream.scorers import BlockScorer


class Alone(Handler):
    """Answers every query with its own value, so that tokens meet in recurrent layers only."""

    def attend(self, call):
        return call.v_BGTE.repeat_interleave(call.q_BHTD.shape[1] // call.v_BGTE.shape[1], dim=1)


def hidden(model, ids_BT, past=None, real_BT=None):
    with attached(model, Alone()):
        return hidden_states(model, ids_BT, past=past, real_BT=real_BT).last_hidden_state


def text(rows: int, tokens: int) -> torch.Tensor:
    return torch.randint(3, 64, (rows, tokens), generator=torch.Generator().manual_seed(2))


def scorer(model, policy=SinkWindow(sinks=2, window=8)) -> BlockScorer:
    return BlockScorer(LoadedModel(model, None, "tiny", "in memory"), policy)


def test_jamba_blocks_longer_than_a_slice_go_on_exactly_from_the_carried_state(monkeypatch):
    in_float64(monkeypatch)
    model, ids = tiny(*HYBRID["jamba"]), text(2, 600)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("dt_proj.bias"):
                parameter.fill_(-5.0)  # small steps: a state that lasts for hundreds of tokens
    past, whole = recurrent_cache(model), hidden(model, ids)
    parts = torch.cat([hidden(model, part, past) for part in ids.split([150, 1, 300, 149], dim=1)], dim=1)
    forgetful = torch.cat([hidden(model, part, recurrent_cache(model)) for part in ids.split([300, 300], dim=1)], dim=1)
    assert (parts - whole).abs().max() <= 1e-10
    assert (forgetful - whole)[:, -1].abs().max() > 1e-3


@pytest.mark.parametrize("hybrid", HYBRID)
def test_padding_on_the_left_never_enters_the_state(hybrid, monkeypatch):
    in_float64(monkeypatch)
    model, ids = tiny(*HYBRID[hybrid]), text(2, 20)
    real = torch.ones(2, 12, dtype=torch.bool)
    real[1, :7] = False
    past, alone = recurrent_cache(model), recurrent_cache(model)
    found = torch.cat([hidden(model, ids[:, :12], past, real), hidden(model, ids[:, 12:], past)], dim=1)[1:, 7:]
    expected = torch.cat([hidden(model, part, alone) for part in ids[1:, 7:].split([5, 8], dim=1)], dim=1)
    assert (found - expected).abs().max() <= 1e-10


def test_rows_of_the_state_can_be_chosen_anew(monkeypatch):
    in_float64(monkeypatch)
    model, ids = tiny(*HYBRID["qwen3_next"]), text(3, 20)
    expected = hidden(model, ids)[:, 12:]
    for rows in ([2, 0, 1], [1, 1]):
        past, rows = recurrent_cache(model), torch.tensor(rows)
        hidden(model, ids[:, :12], past)
        past.select(rows)
        assert (hidden(model, ids[rows, 12:], past) - expected[rows]).abs().max() <= 1e-10


def test_a_stream_restored_from_a_file_goes_on_to_the_same_bits():
    model, ids = tiny(*HYBRID["qwen3_next"], dtype=torch.float32), text(1, 61)[0]
    first, second = scorer(model), scorer(model)
    for start in (0, 20):
        first.step(ids[start : start + 20], ids[start + 1 : start + 21])
    data, tensors = first.state()
    file = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
    expected = first.step(ids[40:60], ids[41:61])
    second.restore(data, safetensors.torch.load(file))
    assert (second.step(ids[40:60], ids[41:61]) == expected).all()
    assert {"recurrent.0.conv0", "recurrent.2.recurrent0"} <= set(tensors)
    assert first.cache_bytes == sum(tensor.nbytes for tensor in first.state()[1].values())


def test_layers_are_told_by_their_true_numbers():
    lines = scorer(tiny(*HYBRID["jamba"])).layers
    assert lines == [
        "layers 1, 3: keeps 2 sinks and the last 8; not rotated",
        "layers 0, 2: recurrent state carried between blocks",
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_state_that_gets_lost_between_blocks_is_refused_by_name(dtype, monkeypatch):
    model = tiny(*HYBRID["jamba"], dtype=dtype)
    assert [facts.number for facts in probe(model, reach=40)] == [1, 3]
    monkeypatch.setattr(families, "FAMILIES", ())
    with pytest.raises(ModelError, match="jamba: its recurrent state cannot be carried"):
        probe(model, reach=40)


def test_hybrids_are_not_compiled():
    model = tiny(*HYBRID["falcon_h1"], dtype=torch.float32)
    assert worth_compiling(model, torch.device("cuda"), 1e12) == (False, "recurrent layers are not compiled")
    with pytest.raises(ModelError, match="not compiled"):
        BlockScorer(LoadedModel(model, None, "tiny", "in memory"), SinkWindow(sinks=2, window=8), compile_size=64)
