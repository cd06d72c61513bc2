"""Experts chosen by hand."""

import torch
from views_by_hand import real

from sinkctl.metrics.experts import expert_load, first_token_experts

CHOSEN_NTK = torch.tensor([[[0, 3], [1, 3], [2, 3], [1, 2]], [[2, 1], [0, 1], [3, 0], [3, 0]]])


def test_the_first_token_is_apart_and_what_is_past_the_end_does_not_count():
    mask = real([4, 2])
    assert first_token_experts(CHOSEN_NTK, mask, 5).tolist() == [[1, 0, 0, 1, 0], [0, 1, 1, 0, 0]]
    torch.testing.assert_close(
        expert_load(CHOSEN_NTK, mask, 5), torch.tensor([[0, 2 / 3, 2 / 3, 2 / 3, 0], [1, 1, 0, 0, 0]])
    )


def test_a_lone_token_says_nothing_of_others():
    assert expert_load(CHOSEN_NTK[:1, :1], real([1]), 5).isnan().all()
