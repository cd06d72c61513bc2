"""Angles and norms of queries and keys against loops, and against a planted angle."""

import math

import pytest
import torch
from views_by_hand import G, H, attention_view, random_view

from sinkctl.kernels.column_sums.reference import Visible
from sinkctl.metrics.qk import key_logit, key_norms, qk_cosine, query_norm
from sinkctl.metrics.views import Scope

SCOPE = Scope()


def cosine(x, y):
    return float(x @ y / math.sqrt((x @ x) * (y @ y)))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("h", range(H))
@pytest.mark.parametrize(("n", "length"), [(0, 9), (1, 17)])
def test_numbers_are_those_of_loops_over_tokens(n, length, h, causal):
    view, g = random_view(visible=Visible(causal=causal, window=3)), h * G // H
    q, k = view.q_NHTD[n, h, :length], view.k_NGTD[n, g, :length]

    def mean(number, places=range(1, length)):
        return sum(float(number(t)) for t in places) / len(places)

    def others(t):
        return mean(lambda j: cosine(q[t], k[j]), range(1, t + 1 if causal else length))

    first = mean(lambda t: cosine(q[t], k[0]))
    assert qk_cosine(view, SCOPE)[n, h].tolist() == pytest.approx([first, mean(others)])
    assert float(key_logit(view, SCOPE)[n, h] * k[0].norm()) == pytest.approx(mean(lambda t: q[t] @ k[0] * 0.7))
    assert float(query_norm(view, SCOPE)[n, h]) == pytest.approx(mean(lambda t: q[t].norm()))
    assert key_norms(view, SCOPE)[n, g].tolist() == pytest.approx([float(k[0].norm()), mean(lambda t: k[t].norm())])


def test_a_planted_angle_and_planted_norms_are_read_back():
    """Keys at 0° and 90°, queries of norm 2 at 60° to the first."""
    q, k = (torch.zeros(1, 1, 6, 2).double() for _ in range(2))
    q[..., 0], q[..., 1] = 2 * math.cos(math.pi / 3), 2 * math.sin(math.pi / 3)
    k[:, :, 0, 0], k[:, :, 1:, 1] = 0.1, 30
    view = attention_view(q, k, k, scale=0.5)
    assert qk_cosine(view, SCOPE)[0, 0].tolist() == pytest.approx([0.5, math.sqrt(0.75)])
    assert key_norms(view, SCOPE)[0, 0].tolist() == pytest.approx([0.1, 30])
    assert float(key_logit(view, SCOPE)) == pytest.approx(0.5)
    assert float(query_norm(view, SCOPE)) == pytest.approx(2)
