"""The last queries against the map and closed forms."""

import math

import pytest
import torch
from views_by_hand import attention_map, planted_view, random_view

from sinkctl.kernels.column_sums.reference import Visible
from sinkctl.metrics.tail import boost, last_query, tail_mass
from sinkctl.metrics.views import Scope


@pytest.mark.parametrize("visible", [Visible(), Visible(window=8), Visible(causal=False)], ids=str)
def test_the_tail_is_the_last_rows_of_each_map(visible):
    view, scope = random_view(visible=visible), Scope(sinks=3, tail=12)
    for n in range(2):
        a_HTS = attention_map(view, n)
        torch.testing.assert_close(last_query(view, scope)[n], a_HTS[:, -1, :3])
        torch.testing.assert_close(tail_mass(view, scope)[n], a_HTS[:, -12:, :3].sum(-1).mean(-1))


def test_the_last_query_gives_a_planted_sink_its_closed_form():
    found = last_query(planted_view([3.0], 64, [10, 64]), Scope(sinks=2))[:, 0]
    for row, t in zip(found.tolist(), (10, 64), strict=True):
        assert row == pytest.approx([math.exp(3) / (math.exp(3) + t - 1), 1 / (math.exp(3) + t - 1)])


def test_uniform_attention_has_no_boost():
    for visible in (Visible(), Visible(causal=False), Visible(window=30)):
        view = planted_view([0.0], 50, [3, 20, 50], visible=visible)
        assert boost(view, Scope(tail=30)).flatten().tolist() == pytest.approx([1, 1, 1])


def test_boost_is_the_tail_mass_over_the_uniform_share():
    view, scope = random_view(), Scope(sinks=3, tail=5)
    uniform = sum(3 / (t + 1) for t in range(12, 17)) / 5
    torch.testing.assert_close(boost(view, scope)[1], attention_map(view, 1)[:, -5:, :3].sum((1, 2)) / 5 / uniform)


def test_a_tail_that_sees_no_leading_key_gives_them_nothing_and_has_no_boost():
    view, scope = random_view(visible=Visible(window=4)), Scope(sinks=4, tail=5)
    assert last_query(view, scope)[1].abs().max() == tail_mass(view, scope)[1].max() == 0
    assert boost(view, scope)[1].isnan().all()
