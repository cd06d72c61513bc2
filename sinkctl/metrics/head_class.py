"""What a head mostly does.

H heads, with any dimensions in front.
"""

import torch
from torch import Tensor

CLASSES = ("sink", "local", "diffuse", "retrieval")
THRESHOLDS = (
    "sink: more than 0.5 of the mass on the leading keys and the sink logit; else local: more than 0.5 on near keys; "
    "else diffuse: entropy above 0.8 of its maximum; else retrieval: mass on few keys neither leading nor near"
)


def head_class(split_H4: Tensor, entropy_share_H: Tensor) -> Tensor:
    """Index into CLASSES from `mass_split` and `entropy_share`, by the rule in THRESHOLDS: [..., H]."""
    sinks_H, local_H, _, learned_H = split_H4.unbind(-1)
    class_H = torch.where(entropy_share_H > 0.8, CLASSES.index("diffuse"), CLASSES.index("retrieval"))
    class_H = torch.where(local_H > 0.5, CLASSES.index("local"), class_H)
    return torch.where(sinks_H + learned_H > 0.5, CLASSES.index("sink"), class_H)
