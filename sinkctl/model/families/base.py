"""What a family has to say of itself."""

from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


class Family:
    """How the attention modules of one model family compute queries, keys and values, and what they do with the output.

    `forward` stands in for the module's own inside `attached`: it computes q, k and v as the stock class does, rotated
    as `position_ids` say, hands them with the slopes of ALiBi to `handler.answered`, and applies the stock class's
    output projection. Keys and values keep their own number of heads; query head h belongs to group h // (H/G).
    For a recurrent module it computes what the stock class does, going on from the state that the cache carries.
    """

    modules: ClassVar[tuple[str, ...]]  # names of the classes it stands in for
    tables: ClassVar[tuple[str, ...]] = ()  # names of the classes that hold its table of angles, if other ones

    @staticmethod
    def needed(module: nn.Module) -> bool:
        """Whether this version of transformers leaves anything to the family at this module."""
        return True

    @staticmethod
    def forward(module: nn.Module, hidden_states: Tensor, **kwargs: Any) -> Any:
        """What the stock module's forward returns, with the handler's attention or the carried state."""
        raise NotImplementedError

    @staticmethod
    def check(model: PreTrainedModel) -> None:
        """Raise ModelError for a checkpoint that the stock class computes otherwise than its config says."""

    @staticmethod
    def frequencies(module: nn.Module) -> Tensor | None:
        """Rotary frequencies, radians per position, where no `inv_freq` buffer shows them."""
        return None

    @staticmethod
    def farthest(module: nn.Module) -> int | None:
        """The last position that the stock class can be run at; None: any."""
        return None


@torch.compiler.disable  # its tracer does not know the cache
@lru_cache(maxsize=64)  # of a few slopes, asked for by every layer of every block
def alibi_slopes(build: Any, heads: int, device: torch.device) -> Tensor:
    """The slopes that a stock `build_alibi_tensor(mask, heads, dtype)` falls by, [H] in float32: its second column."""
    return build(torch.ones(1, 2, dtype=torch.long, device=device), heads, torch.float32)[:, 0, 1].clone()
