"""The first columns of the map, mean over heads."""

import pytest
import torch
from views_by_hand import attention_map, random_view

from sinkctl.kernels.column_sums.reference import Visible
from sinkctl.metrics.first_keys import first_keys
from sinkctl.metrics.views import Scope


@pytest.mark.parametrize("visible", [Visible(), Visible(window=4), Visible(causal=False)], ids=str)
def test_columns_are_those_of_the_map_where_the_query_could_see_the_key(visible):
    view = random_view(visible=visible)
    found = first_keys(view, Scope(sinks=3))
    for n, length in enumerate((9, 17)):
        a_TK = attention_map(view, n).mean(0)[:, :3]
        if visible.causal:
            a_TK = a_TK.masked_fill(torch.ones(length, 3).triu(1).bool(), torch.nan)
        torch.testing.assert_close(found[n, :length], a_TK, equal_nan=True)


def test_keys_that_a_sample_lacks_are_no_numbers():
    found = first_keys(random_view((2, 3)), Scope(sinks=5))
    assert found.shape == (2, 3, 5)
    assert (~found.isnan()).sum((1, 2)).tolist() == [3, 6]
