"""What a recipe says of the first token's attention. Importing this imports no torch."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Head = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]
FEW = 4  # heads that are named one by one


class Found(BaseModel):
    """What a calibration found, on its own text."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    heads: tuple[Head, ...] = Field(description="[layer, head] of those chosen.")
    among: int = Field(description="Heads that the first token could be seen by.")
    tokens: int = Field(description="Tokens scored for every head, or layer.")
    before: float = Field(description="Loss with nothing redistributed, nats a token.")
    after: float = Field(description="Loss with all chosen heads redistributed together, nats a token.")


class Redistribution(BaseModel):
    """Part of what heads give to the first token goes to the other tokens, in proportion to what those get anyway.

    The rule is that of Yu et al. 2024 (ACT, arXiv 2406.15765) and Kang et al. 2025 (arXiv 2503.03321), applied to the
    first token; `kernels/stream_attention/redistributed.py` has its formula.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    share: float = Field(gt=0, le=1, description="Of the first token's attention, given to the others; 1: all of it.")
    heads: Literal["all", "calibrate", "random"] | Annotated[tuple[Head, ...], Field(min_length=1)] = Field(
        "all",
        description="[[layer, head], …], both from 0; calibrate: those whose redistribution alone lowers the loss of "
        "another text; random: as many, drawn.",
    )
    files: tuple[str, ...] = Field(
        (), description="The other text, to calibrate on: its beginning; none: the end of the built-in one."
    )
    samples: int = Field(8, ge=1, description="Samples of it,")
    length: int = Field(256, ge=8, description="tokens each.")
    by: Literal["head", "layer"] = Field("head", description="Try every head alone, or all heads of a layer at once.")
    seed: int = Field(0, ge=0, description="Draws the random heads.")
    found: Found | None = Field(None, description="What a run found; null: to be found.")

    @property
    def label(self) -> str:
        """What tables and pictures call it."""
        said = f"{self.share:g} redistributed"
        if self.heads == "all":
            return said
        if self.heads == "calibrate":
            return f"{said} in calibrated {self.by}s"
        if self.heads == "random":
            return f"{said} in random heads" + (f" ({self.seed})" if self.seed else "")
        if len(self.heads) > FEW:
            return f"{said} in {len(self.heads)} heads"
        return f"{said} in heads {' '.join(f'{layer}.{head}' for layer, head in self.heads)}"

    @property
    def reason(self) -> str:
        """How the heads came to be chosen, and what they did to the loss of the other text."""
        text = f"{self.samples} samples of {self.length} tokens of {', '.join(self.files) or 'the built-in text'}"
        if self.found is None:
            return f"found when it runs, one {self.by} after the other, on {text}"
        how = f"whose loss falls, {self.by} by {self.by}" if self.heads == "calibrate" else f"drawn, seed {self.seed}"
        return (
            f"{len(self.found.heads):,} of {self.found.among:,}, {how}; together they take {text} from "
            f"{self.found.before:.4f} to {self.found.after:.4f} nats a token"
        )

    @property
    def searched(self) -> bool:
        """Whether a calibration says which heads."""
        return self.heads in ("calibrate", "random")

    @property
    def settled(self) -> bool:
        """Whether it is known which heads."""
        return not self.searched or self.found is not None

    @property
    def chosen(self) -> tuple[Head, ...] | None:
        """[layer, head] of those meant; None: all. Nothing where they are to be found."""
        if self.heads == "all":
            return None
        if self.searched:
            return () if self.found is None else self.found.heads
        return self.heads
