"""Mean attended distance against a closed form and against the map."""

import pytest
import torch
from views_by_hand import H, attention_map, planted_view, random_view

from sinkctl.kernels.column_sums.reference import Visible
from sinkctl.metrics.distance import mean_distance
from sinkctl.metrics.views import Scope


def test_uniform_attention_looks_half_way_back_with_or_without_a_sink_logit():
    for sink_logit in (None, torch.tensor([1.7]).double()):
        assert mean_distance(planted_view([0.0], 64, sink_logit_H=sink_logit), Scope()).item() == pytest.approx(63 / 4)


@pytest.mark.parametrize("visible", [Visible(), Visible(causal=False)], ids=str)
def test_distance_is_weighted_by_the_mass_on_keys(visible):
    view = random_view(visible=visible, sink_logit_H=torch.linspace(-1, 3, H).double())
    for n, length in enumerate((9, 17)):
        a_HTS, place = attention_map(view, n)[..., :length], torch.arange(length)
        distance_HT = (a_HTS * (place[:, None] - place).abs()).sum(-1) / a_HTS.sum(-1)
        torch.testing.assert_close(mean_distance(view, Scope())[n], distance_HT.mean(-1))


def test_a_head_that_attends_to_no_key_has_no_distance():
    view = planted_view([0.0], 8, sink_logit_H=torch.tensor([200.0]).double())
    assert mean_distance(view, Scope()).isnan().all()
