"""Model families whose attention bypasses transformers' attention interface: one a file, one line here."""

from torch import nn
from transformers import PreTrainedModel

from sinkctl.model.families.base import Family

FAMILIES: tuple[type[Family], ...] = ()


def bypassing(model: PreTrainedModel) -> list[tuple[nn.Module, type[Family]]]:
    """The attention modules of `model` that never call the interface, each with the family that speaks for it."""
    return [
        (module, family) for module in model.modules() for family in FAMILIES if type(module).__name__ in family.modules
    ]


__all__ = ["FAMILIES", "Family", "bypassing"]
