"""What a family has to say of itself."""

from typing import Any, ClassVar

from torch import Tensor, nn


class Family:
    """How the attention modules of one model family compute queries, keys and values, and what they do with the output.

    `forward` stands in for the module's own inside `attached`: it computes q, k and v as the stock class does, rotated
    as `position_ids` say, hands them to `handler.answered`, and applies the stock class's output
    projection.
    """

    modules: ClassVar[tuple[str, ...]]  # names of the attention classes it stands in for

    @staticmethod
    def forward(module: nn.Module, hidden_states: Tensor, **kwargs: Any) -> Any:
        """What the stock module's forward returns, with the handler's attention."""
        raise NotImplementedError
