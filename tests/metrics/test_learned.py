"""Mass on a learned sink logit: zero logits give 1/T Σ e^s / (e^s + keys seen)."""

import pytest
import torch
from views_by_hand import H, attention_map, planted_view, random_view

from sinkctl.kernels.column_sums.reference import Visible
from sinkctl.metrics.balance import balance_error
from sinkctl.metrics.learned import learned_mass, learned_sinks
from sinkctl.metrics.views import Scope

SCOPE = Scope()


def test_flat_keys_give_the_sink_logit_its_closed_form():
    full, window = (
        planted_view([0.0, 0.0], 64, visible=Visible(window=w), sink_logit_H=torch.tensor([1.7, 0]).double())
        for w in (None, 15)  # 16 keys with the query itself
    )
    softmax1 = (sum(1 / t for t in range(1, 66)) - 1) / 64
    assert learned_mass(full, SCOPE)[0].tolist() == pytest.approx([0.210367, softmax1], abs=1e-6)
    assert softmax1 == pytest.approx(0.058739, abs=1e-6)
    assert learned_mass(window, SCOPE)[0, 0] == pytest.approx(0.302490, abs=1e-6)
    assert learned_sinks(full, SCOPE).tolist() == [[0, 0]]
    assert learned_sinks(window, SCOPE).tolist() == [[1, 0]]  # more than 0.3 of attention


def test_it_is_the_last_column_of_the_map_and_balances_what_keys_received():
    view = random_view(sink_logit_H=torch.linspace(-2, 3, H).double())
    for n in range(2):
        torch.testing.assert_close(learned_mass(view, SCOPE)[n], attention_map(view, n)[..., -1].mean(-1))
    assert balance_error(view, SCOPE).max() < 1e-14
