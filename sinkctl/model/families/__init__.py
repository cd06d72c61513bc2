"""Model families with modules that transformers alone does not stream: one a file, one line here.

Their attention bypasses its attention interface, or their recurrent layers start every block anew.
"""

from torch import nn
from transformers import PreTrainedModel

from sinkctl.model.families.base import Family
from sinkctl.model.families.bloom import Bloom
from sinkctl.model.families.codegen import CodeGen
from sinkctl.model.families.falcon import Falcon
from sinkctl.model.families.gptj import GptJ
from sinkctl.model.families.jamba import Jamba
from sinkctl.model.families.mamba2 import BoundedMamba2
from sinkctl.model.families.mpt import Mpt

FAMILIES: tuple[type[Family], ...] = (
    Bloom,
    BoundedMamba2,
    CodeGen,
    Falcon,
    GptJ,
    Jamba,
    Mpt,
)


def known(model: PreTrainedModel) -> list[tuple[nn.Module, type[Family]]]:
    """The modules of `model` that a family speaks for, each with it.

    Only classes of transformers: code that comes with a checkpoint may go by the same name and do something else.
    """
    return [
        (module, family)
        for module in model.modules()
        if type(module).__module__.startswith("transformers.models.")
        for family in FAMILIES
        if type(module).__name__ in family.modules + family.tables and family.needed(module)
    ]


def bypassing(model: PreTrainedModel) -> list[tuple[nn.Module, type[Family]]]:
    """Those of them whose forward the family stands in for."""
    return [(module, family) for module, family in known(model) if type(module).__name__ in family.modules]


__all__ = ["FAMILIES", "Family", "bypassing", "known"]
