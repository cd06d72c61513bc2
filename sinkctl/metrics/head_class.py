"""What a head mostly does.

H heads, with any dimensions in front.
"""

import torch
from torch import Tensor

CLASSES = ("sink", "local", "diffuse", "retrieval", "mixed")
THRESHOLDS = (
    "sink: more than 0.5 of the mass on the leading keys and the sink logit; else local: more than 0.5 on near keys; "
    "else diffuse: entropy above 0.8 of its maximum; else retrieval: more than 0.5 on keys neither leading nor near; "
    "mixed: none of these"
)


def head_class(split_H4: Tensor, entropy_share_H: Tensor) -> Tensor:
    """Index into CLASSES from `mass_split` and `entropy_share`, by the rule in THRESHOLDS: [..., H]."""
    sinks_H, local_H, rest_H, learned_H = split_H4.unbind(-1)
    class_H = torch.where(rest_H > 0.5, CLASSES.index("retrieval"), CLASSES.index("mixed"))
    class_H = torch.where(entropy_share_H > 0.8, CLASSES.index("diffuse"), class_H)
    class_H = torch.where(local_H > 0.5, CLASSES.index("local"), class_H)
    return torch.where(sinks_H + learned_H > 0.5, CLASSES.index("sink"), class_H)
