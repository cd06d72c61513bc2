"""Value norms against loops; written norms against the projection itself."""

import pytest
import torch
from views_by_hand import G, H, attention_view, random_view

from sinkctl.metrics.values import value_drain, value_norms, written_norms
from sinkctl.metrics.views import Scope

SCOPE = Scope()


def test_a_first_value_of_a_tenth_has_a_drain_of_a_tenth():
    q = torch.randn(1, 2, 8, 3).double()
    v = torch.nn.functional.normalize(torch.randn(1, 2, 8, 5).double(), dim=-1)
    v[:, :, 0] *= 0.1
    view = attention_view(q, q, v)
    assert value_norms(view, SCOPE)[0].tolist() == [pytest.approx([0.1, 1])] * 2
    assert value_drain(view, SCOPE)[0].tolist() == pytest.approx([0.1] * 2)
    assert written_norms(view, SCOPE) is None


def test_written_norms_are_those_of_each_query_heads_part_of_the_projection():
    view = random_view()
    for n, length in enumerate((9, 17)):
        for h in range(H):
            written_TC = view.v_NGTE[n, h // (H // G), :length] @ view.projection_CHE[:, h].T
            norm_T = written_TC.norm(dim=-1)
            expected = [norm_T[0].item(), norm_T[1:].mean().item()]
            assert written_norms(view, SCOPE)[n, h].tolist() == pytest.approx(expected)
