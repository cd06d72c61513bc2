"""Keys a query sees, counted one by one."""

import pytest
from views_by_hand import random_view, sees

from sinkctl.kernels.column_sums.reference import Visible
from sinkctl.metrics.seen import keys_seen


def chunks(query_T1, key_S):
    return query_T1 // 6 == key_S // 6


@pytest.mark.parametrize("below", [None, 3])
@pytest.mark.parametrize("also", [None, chunks])
@pytest.mark.parametrize("window", [None, 4, 0])
@pytest.mark.parametrize("causal", [True, False])
def test_the_count_is_that_of_the_keys_seen_one_by_one(causal, window, also, below):
    visible, lengths = Visible(causal, window, None, also), (2, 17)
    expected = [
        [sum(sees(visible, t, s) for s in range(min(length, below or length))) if t < length else 0 for t in range(17)]
        for length in lengths
    ]
    assert keys_seen(random_view(lengths, visible=visible), below).tolist() == expected
