"""Entropy against closed forms and against the map."""

import math

import pytest
import torch
from views_by_hand import H, attention_map, planted_view, random_view

from sinkctl.kernels.column_sums.reference import Visible
from sinkctl.metrics.entropy import entropy, entropy_share
from sinkctl.metrics.views import Scope

SCOPE = Scope()


def test_uniform_attention_has_the_mean_log_of_its_keys():
    view = planted_view([0.0], 64)
    assert entropy(view, SCOPE).item() == pytest.approx(math.lgamma(65) / 64) == pytest.approx(3.205753, abs=1e-6)
    assert entropy_share(view, SCOPE).item() == pytest.approx(1)


def test_a_planted_sink_of_three_nats_has_the_published_entropy_at_the_last_query():
    """The means over 64 and over 63 queries differ by the last query's."""
    over_63, over_64 = entropy(planted_view([3.0], 64, [63, 64]), SCOPE)[:, 0].tolist()
    assert 64 * over_64 - 63 * over_63 == pytest.approx(3.694635, abs=1e-6)


@pytest.mark.parametrize("sink_logit", [None, torch.zeros(1).double()], ids=["keys", "keys and softmax1"])
@pytest.mark.parametrize(
    "visible", [Visible(window=5), Visible(causal=False), Visible(causal=False, window=2)], ids=str
)
def test_flat_attention_reaches_the_maximum_whatever_it_sees(visible, sink_logit):
    view = planted_view([0.0], 30, [7, 30], visible=visible, sink_logit_H=sink_logit)
    assert entropy_share(view, SCOPE).flatten().tolist() == pytest.approx([1, 1])


def test_entropy_is_that_of_the_map_with_the_sink_logit_an_outcome():
    view = random_view(visible=Visible(window=4), sink_logit_H=torch.linspace(-1, 1, H).double())
    for n, length in enumerate((9, 17)):
        a = attention_map(view, n)
        entropy_HT = -torch.xlogy(a, a).sum(-1)
        outcomes_T = torch.tensor([min(t, 4) + 2.0 for t in range(length)]).double()
        torch.testing.assert_close(entropy(view, SCOPE)[n], entropy_HT.mean(-1))
        torch.testing.assert_close(entropy_share(view, SCOPE)[n], (entropy_HT / outcomes_T.log()).mean(-1))


def test_the_only_key_is_no_choice():
    """Without a sink logit the first query does not count."""
    view = random_view()
    a = attention_map(view, 1)
    share_HT = (-torch.xlogy(a, a).sum(-1) / torch.arange(1, 18).log())[:, 1:]
    torch.testing.assert_close(entropy_share(view, SCOPE)[1], share_HT.mean(-1))
