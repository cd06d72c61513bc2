"""The rule that names heads, head by head."""

import torch
from views_by_hand import planted_view

from sinkctl.metrics.entropy import entropy_share
from sinkctl.metrics.head_class import CLASSES, THRESHOLDS, head_class
from sinkctl.metrics.head_mass import mass_split
from sinkctl.metrics.views import Scope


def test_classes_go_by_sink_mass_then_nearness_then_entropy():
    split = torch.tensor(
        [
            [0.3, 0.4, 0.0, 0.3],  # sinks and sink logit together
            [0.2, 0.6, 0.2, 0.0],
            [0.1, 0.2, 0.7, 0.0],
            [0.1, 0.2, 0.7, 0.0],
            [0.5, 0.5, 0.0, 0.0],  # neither half is more than half
        ]
    )
    found = head_class(split, torch.tensor([0.9, 0.9, 0.9, 0.8, 0.1]))
    assert [CLASSES[i] for i in found] == ["sink", "local", "diffuse", "retrieval", "mixed"]
    assert all(f"{name}:" in THRESHOLDS for name in CLASSES)


def test_planted_and_uniform_heads_get_their_names():
    view, scope = planted_view([0.0, 6.0], 64), Scope(sinks=1, local=4)
    found = head_class(mass_split(view, scope), entropy_share(view, scope))
    assert [CLASSES[i] for i in found[0]] == ["diffuse", "sink"]
