"""Kinds of keys against the map, over several tiles of queries."""

import dataclasses

import pytest
import torch
from views_by_hand import H, attention_map, random_view

from sinkctl.kernels.column_sums.reference import Visible
from sinkctl.metrics.group_mass import group_mass
from sinkctl.metrics.samples import Groups
from sinkctl.metrics.views import Scope


@pytest.mark.parametrize("asking", [None, 20])
@pytest.mark.parametrize("visible", [Visible(), Visible(window=20), Visible(causal=False)], ids=str)
def test_what_a_kind_of_keys_receives_is_what_the_map_gives_it(visible, asking):
    """Of all queries, or of those from the 20th on; a sink logit takes the rest."""
    length = 150
    view = random_view((length,), visible=visible, sink_logit_H=torch.linspace(-2, 5, H).double())
    place = torch.arange(length)
    kinds = (place >= 3).long() + (place >= 90).long()
    queries = place >= (asking or 0)
    groups = Groups(kinds[None], 3, None if asking is None else queries[None])
    found = group_mass(dataclasses.replace(view, groups=groups), Scope())[0]
    a_HTS = attention_map(view, 0)[..., :length]
    expected = torch.stack([a_HTS[:, queries][..., kinds == kind].sum(-1).mean(-1) for kind in range(3)], dim=-1)
    torch.testing.assert_close(found, expected)


def test_keys_of_one_kind_say_nothing():
    assert group_mass(random_view((9,)), Scope()) is None
