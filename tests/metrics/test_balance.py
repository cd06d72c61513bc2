"""The balance is that of the map, and shows an error where one is put in."""

import dataclasses

import pytest
import torch
from views_by_hand import H, random_view

from sinkctl.kernels.column_sums.reference import Visible
from sinkctl.metrics.balance import balance_error
from sinkctl.metrics.views import Scope


@pytest.mark.parametrize("visible", [Visible(), Visible(window=3), Visible(causal=False)], ids=str)
def test_every_query_gives_away_one(visible):
    assert balance_error(random_view(visible=visible), Scope()).max() < 1e-14


def test_mass_that_vanishes_shows():
    view = random_view()
    lost = view.sums._replace(received_BHS=view.sums.received_BHS * 0.75)
    found = balance_error(dataclasses.replace(view, sums=lost), Scope())
    torch.testing.assert_close(found, torch.full((2, H), 0.25).double())
