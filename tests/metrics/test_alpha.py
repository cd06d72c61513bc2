"""α against closed forms (64 tokens, harmonic numbers) and against the map."""

import math

import pytest
import torch
from views_by_hand import attention_map, attention_view, planted_view, random_view

from sinkctl.kernels.column_sums.reference import Visible
from sinkctl.metrics.alpha import alpha, sinking
from sinkctl.metrics.views import Scope

SCOPE = Scope()


def harmonic(n):
    return sum(1 / t for t in range(1, n + 1))


def test_uniform_attention_gives_differences_of_harmonic_numbers():
    found = alpha(planted_view([0.0], 64), SCOPE)[0, 0]
    assert found.tolist() == pytest.approx([(harmonic(64) - harmonic(k - 1)) / (64 - k + 1) for k in range(1, 65)])
    assert found[0] == pytest.approx(0.0741233, abs=1e-7)


def test_uniform_attention_passes_for_a_sink_up_to_nine_tokens():
    lengths = [1, 5, 9, 10, 64]
    first = sinking(alpha(planted_view([0.0], 64, lengths), SCOPE), 0.3)[:, 0, 0]
    assert first.tolist() == [1, 1, 1, 0, 0]


def test_planted_scores_give_the_published_values_and_half_the_heads_sink():
    found = alpha(planted_view([0.0, 2.0, 3.0, 4.0, 6.0], 64), SCOPE)[0, :, 0]
    assert found[1:].tolist() == pytest.approx([0.269044, 0.455369, 0.666016, 0.929253], abs=1e-6)
    heads = alpha(planted_view([0.0, 2.0, 3.0, 6.0], 64), SCOPE)[..., 0]
    assert sinking(heads, 0.3).mean() == 0.5


def test_the_threshold_is_strict_and_a_key_that_is_not_there_is_no_answer():
    assert sinking(torch.tensor([0.25, 0.5, torch.nan]), 0.25).nan_to_num(nan=-1).tolist() == [0, 1, -1]


def test_repeated_tokens_under_alibi_follow_a_geometric_series():
    """A_tj = r^(t−j) (1−r) / (1−r^t), r = e^−slope."""
    slopes, T = [0.1, 0.5, 1.0], 20
    same = torch.ones(1, 3, T, 1).double()
    found = alpha(attention_view(same, same, same, slope_H=torch.tensor(slopes).double()), SCOPE)[0]
    for slope, row in zip(slopes, found.tolist(), strict=True):
        r = math.exp(-slope)
        for k in range(1, T + 1):
            column = sum(r ** (t - k) * (1 - r) / (1 - r**t) for t in range(k, T + 1))
            assert row[k - 1] == pytest.approx(column / (T - k + 1))


@pytest.mark.parametrize("visible", [Visible(), Visible(window=4), Visible(causal=False)], ids=str)
def test_alpha_is_the_column_over_the_queries_that_could_see_it(visible):
    view = random_view(visible=visible)
    found = alpha(view, SCOPE)
    for n, length in enumerate((9, 17)):
        queries = torch.arange(length, 0, -1) if visible.causal else torch.full((length,), length)
        torch.testing.assert_close(found[n, :, :length], attention_map(view, n).sum(1) / queries)
