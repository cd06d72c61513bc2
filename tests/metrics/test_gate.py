"""A gate set by hand is read back."""

import dataclasses

import torch
from views_by_hand import random_view

from sinkctl.metrics.gate import first_gate, gate
from sinkctl.metrics.views import Scope

SCOPE = Scope()


def test_a_gate_by_head_and_a_tighter_one_on_the_first_token_are_read_back():
    view, gate_H = random_view(), torch.tensor([0.1, 0.4, 0.7, 1.0]).double()
    kept = view.sums.out_BHTE * gate_H[:, None, None]
    expected = gate_H.expand(2, -1)
    torch.testing.assert_close(gate(dataclasses.replace(view, kept_NHTE=kept), SCOPE), expected)
    kept[:, :, 0] *= 0.5
    gated = dataclasses.replace(view, kept_NHTE=kept)
    torch.testing.assert_close(first_gate(gated, SCOPE), expected / 2)
    squares = view.sums.out_BHTE.square().sum(-1)  # what is past the end is 0
    part = squares[..., 0] / squares.sum(-1)
    torch.testing.assert_close(gate(gated, SCOPE), expected * (1 - part / 2))


def test_where_everything_passes_there_is_no_gate():
    view = random_view()
    for open_gate in (view, dataclasses.replace(view, kept_NHTE=view.sums.out_BHTE.clone())):
        assert gate(open_gate, SCOPE) is first_gate(open_gate, SCOPE) is None
