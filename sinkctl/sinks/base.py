"""What every mechanism has.

Shapes: H query heads, G key/value heads, D head width, N queries, C hidden width.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from torch import Tensor

    from sinkctl.metrics.first_token import FirstToken

    Start = dict[str, Tensor]


class LayerShape(NamedTuple):
    """One softmax attention layer."""

    heads: int
    kv_heads: int
    width: int
    value_width: int
    hidden: int


class Sink(BaseModel):
    """A designed place for attention that has nowhere to go; its fields are its settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    from_scratch: ClassVar[bool] = False  # whether it serves training from random weights alone
    kind: str
    bos: Literal["auto", "keep", "drop"] = Field(
        "auto", description="The BOS token of the tokenizer; auto: dropped where the start takes its place."
    )

    @property
    def replaces_first(self) -> bool:
        """Whether the start takes the place of the first token, which can then go."""
        return getattr(self, "start", None) in ("match", "mean")

    @property
    def measured(self) -> bool:
        """Whether the start needs statistics of a text."""
        return self.replaces_first

    @property
    def whole_rows(self) -> bool:
        """Whether it needs whole rows of scores."""
        return False

    @property
    def hidden(self) -> bool:
        """Whether it needs what the projections take."""
        return False

    @property
    def folds(self) -> bool:
        """Whether the start also takes a part of the first token's key and value from all keys and values."""
        return False

    def begin(self, shape: LayerShape, seen: "FirstToken | None") -> "Start":
        """The parameters a layer begins with, float32; `seen` where `measured`."""
        raise NotImplementedError

    def starts(self, shapes: Sequence[LayerShape]) -> "list[Start | None]":
        """What each layer begins with where nothing is measured; None: the layer stays as it is."""
        return [self.begin(shape, None) for shape in shapes]

    def stored(self) -> dict[str, Any]:
        """What config.json says of the mechanism besides the names of its parameters."""
        return {"kind": self.kind}
