"""A second key planted to sink on once the first is hidden: logit 10 on the first token, 6 on another, else 0."""

import math

import pytest
import torch
from carrier import SINK, carrier

from sinkctl.metrics.masked_key import hide
from sinkctl.metrics.next_token import next_token
from sinkctl.metrics.samples import laid_out
from sinkctl.metrics.takeover import SinkHeads, takeover

OTHER, PLACE, T = 9, 3, 64


def planted(logits: list[list[float]]):
    """The carrier with a token that takes 0.6 of the sink's logit: channel 0 is 0.2, and another keeps the RMS at 1."""
    loaded = carrier(logits)
    with torch.no_grad():
        row = loaded.model.get_input_embeddings().weight[OTHER]
        row[0], row[2] = 0.2, math.sqrt(2 - 0.2**2)
    return loaded


def heads(loaded, ids_NT, also) -> SinkHeads:
    found = SinkHeads(0.3)
    next_token(loaded.model, laid_out(list(ids_NT), loaded.device), also, told=found.add)
    return found


def samples(places: list[int]) -> torch.Tensor:
    ids_NT = torch.full((len(places), T), 20)
    ids_NT[:, 0] = SINK
    ids_NT[torch.arange(len(places)), torch.tensor(places)] = OTHER
    return ids_NT


def test_the_planted_key_takes_over_from_the_layer_where_heads_sank():
    loaded = planted([[0.0, 0.0], [10.0, 0.0], [10.0, 10.0]])
    ids_NT = samples([PLACE, PLACE, 5])
    plain, hidden = heads(loaded, ids_NT, hide(())), heads(loaded, ids_NT, hide((0,)))
    assert plain.heads_NT[:, 0].tolist() == [3, 3, 3]
    found = takeover([plain], [hidden])
    assert found.key_N == [PLACE, PLACE, 5]
    assert (found.before, found.after, found.layer) == (0.0, 0.5, 1)
    halves = [[heads(loaded, part, also)] for also in (hide(()), hide((0,))) for part in (ids_NT[:2], ids_NT[2:])]
    assert takeover([*halves[0], *halves[1]], [*halves[2], *halves[3]]) == found  # batch by batch


def test_hidden_later_the_key_leaves_no_time_to_be_replaced():
    """α counts every query, and the first half still sinks on the first key."""
    loaded = planted([[10.0, 10.0]])
    ids_NT = samples([PLACE])
    plain, later = heads(loaded, ids_NT, hide(())), heads(loaded, ids_NT, hide((0,), T - 8))
    assert takeover([plain], [later]) is None


def test_without_another_sink_nothing_takes_over():
    loaded = carrier([[10.0, 10.0]])
    ids_NT = samples([PLACE])
    assert takeover([heads(loaded, ids_NT, hide(()))], [heads(loaded, ids_NT, hide((0,)))]) is None


@pytest.mark.parametrize("causal_end", [T - 1])
def test_the_last_key_is_no_sink_although_it_sees_itself(causal_end):
    found = heads(carrier([[0.0]]), samples([PLACE]), hide(()))
    assert int(found.heads_NT[0, causal_end]) == 0
