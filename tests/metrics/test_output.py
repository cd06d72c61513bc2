"""What heads write, against the projection itself and a drained sink's closed form."""

import dataclasses

import pytest
import torch
from views_by_hand import C, H, attention_view, random_view

from sinkctl.metrics.output import DORMANT, head_output, relative_output
from sinkctl.metrics.views import Scope

SCOPE = Scope()


def test_a_sink_without_value_shrinks_the_output_by_its_closed_form():
    """v_1 = 0, others u: ‖out_T‖ = ‖u‖ (T−1) / (e^s+T−1); the means over 64 and 63 tokens differ by the last."""
    k = torch.zeros(2, 1, 64, 1).double()
    k[:, :, 0] = 3
    v = torch.tensor([3.0, 4.0]).double().expand(2, 1, 64, 2).clone()
    v[:, :, 0] = 0
    view = attention_view(torch.ones_like(k), k, v, [63, 64], projection_CHE=torch.eye(2).double()[:, None])
    over_63, over_64 = head_output(view, SCOPE)[:, 0].tolist()
    assert 64 * over_64 - 63 * over_63 == pytest.approx(5 * 0.758255, abs=5e-6)


def test_heads_are_measured_after_the_gate_and_against_their_layer():
    view = random_view()
    gate_H = torch.tensor([1.0, 1.0, 1.0, 0.01]).double()
    kept = view.sums.out_BHTE * gate_H[:, None, None]
    found, gated = head_output(view, SCOPE), dataclasses.replace(view, kept_NHTE=kept)
    for n, length in enumerate((9, 17)):
        for h in range(H):
            expected = (view.sums.out_BHTE[n, h, :length] @ view.projection_CHE[:, h].T).norm(dim=-1).mean()
            assert found[n, h] == pytest.approx(expected.item())
    torch.testing.assert_close(head_output(gated, SCOPE), found * gate_H)
    torch.testing.assert_close(relative_output(head_output(gated, SCOPE)).mean(-1), torch.ones(2).double())
    assert (relative_output(head_output(gated, SCOPE)) < DORMANT).tolist() == [[False, False, False, True]] * 2


def test_a_head_without_projection_weights_gives_zero_and_a_layer_without_any_no_answer():
    projection = torch.randn(C, H, 6).double()
    projection[:, 2] = 0
    assert head_output(random_view(projection_CHE=projection), SCOPE)[:, 2].tolist() == [0, 0]
    assert head_output(random_view(projection_CHE=None), SCOPE) is None
