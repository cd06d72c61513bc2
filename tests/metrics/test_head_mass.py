"""The four classes of mass against the map, over several tiles of queries."""

import pytest
import torch
from views_by_hand import H, attention_map, planted_view, random_view

from sinkctl.kernels.column_sums.reference import Visible
from sinkctl.metrics.head_mass import mass_split
from sinkctl.metrics.views import Scope


@pytest.mark.parametrize(("sinks", "local"), [(3, 10), (0, 200), (200, 64)])
@pytest.mark.parametrize("visible", [Visible(), Visible(window=20), Visible(causal=False)], ids=str)
def test_every_cell_of_the_map_is_in_one_class(visible, sinks, local):
    view = random_view((40, 150), visible=visible, sink_logit_H=torch.linspace(-2, 5, H).double())
    found = mass_split(view, Scope(sinks=sinks, local=local))
    for n, length in enumerate((40, 150)):
        a_HTS = attention_map(view, n)
        place = torch.arange(length)
        leading = (place < sinks).expand(length, length)
        near = ((place[:, None] - place).abs() <= local) & ~leading
        parts = [a_HTS[..., :length][:, cells].sum(-1) / length for cells in (leading, near, ~(leading | near))]
        torch.testing.assert_close(found[n], torch.stack([*parts, a_HTS[..., length].mean(-1)], dim=-1))
    torch.testing.assert_close(found.sum(-1), torch.ones(2, H).double())


def test_a_planted_sink_takes_its_closed_form_and_the_rest_lies_beyond_the_near_keys():
    """Of 1/(e^s+t−1) for each other key, at most 3 are near."""
    e, T = torch.e**2, 30
    found = mass_split(planted_view([2.0], T), Scope(sinks=1, local=2))[0, 0].tolist()
    sinks, near, rest = (
        sum(count(t) / (e + t - 1) for t in range(1, T + 1)) / T
        for count in (lambda t: e, lambda t: min(t - 1, 3), lambda t: max(t - 4, 0))
    )
    assert found == pytest.approx([sinks, near, rest, 0])
