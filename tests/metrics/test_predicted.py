"""The rule that tells sink tokens by their massive activations, on elements put in by hand."""

import torch
from views_by_hand import real

from sinkctl.metrics.massive import massive, massive_places
from sinkctl.metrics.predicted import Rule, predicted, rule
from sinkctl.metrics.views import BlockView, Scope


def test_places_are_the_elements_that_are_counted():
    h = torch.rand(2, 20, 16) / 10
    h[0, 3, 5], h[0, 0, 7], h[0, 4, 1], h[0, 5, 2], h[1, 2, 7] = -2500.0, 900.0, 99.0, torch.inf, 130.0
    h[1, 12:] = 1e6  # past the end
    view = BlockView(h.to(torch.bfloat16), real([20, 12]))
    found = massive(view, Scope())
    assert massive_places(view, Scope(), found[:, 3]).tolist() == [[0, 0, 7], [0, 3, 5], [1, 2, 7]]
    assert found[:, 4].tolist() == [2, 1]


def test_the_first_layer_that_marks_half_of_the_samples_tells_and_never_the_last():
    once = torch.tensor([[0, 0, 3], [0, 1, 3], [0, 2, 3]])  # one sample of four, however often
    twice = torch.tensor([[0, 0, 3], [1, 9, 3], [2, 0, 8], [2, 0, 5], [3, 4, 5]])
    assert rule({2: once, 4: twice, 5: twice}, samples=4, last=9) == Rule(4, [3, 5])
    assert rule({2: once, 9: twice}, samples=4, last=9) is None
    assert predicted(twice, [3, 5]) == {(0, 0), (1, 9), (2, 0), (3, 4)}
    assert predicted(twice, [8]) == {(2, 0)}
