"""What the end of a prompt looks at, chosen once."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sinkctl.cache.policies.base import WINDOW, Keep, Policy, Window
from sinkctl.cache.policies.sink_window import SinkWindow

OBSERVED = 32


class Snap(Policy):
    """Take a prompt in whole; at its end keep `sinks + window` of its tokens, in each key/value head its own.

    They are the first `sinks`, the last `observe`, and of the others those that the last `observe` queries attend to
    most, neighbours pooled (SnapKV, Li et al. 2024, arXiv 2404.14469). What comes after is kept, up to the end of the
    next prompt: a chat's next turn. Layers trained on a window of their own keep that.
    """

    kind: Literal["snap"] = "snap"
    sinks: int = Field(4, ge=0, description="Leading tokens that are never evicted, whatever attention they get.")
    window: Window = Field("auto", description=WINDOW)
    observe: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description=f"Last tokens of a prompt that choose, and are kept; auto: {OBSERVED}, at most half."
    )
    pool: int = Field(7, ge=1, description="Neighbouring tokens that count as the best of them does; an odd number.")
    precision: None = Field(None, description="Not together with eviction: a group of tokens does not stay one.")

    @property
    def size(self) -> str:
        settings = [f"{self.sinks}+{self.window}"]
        if self.observe not in ("auto", self._usual):
            settings.append(f"observe {self.observe}")
        if self.pool != 7:
            settings.append(f"pool {self.pool}")
        return f"{self.kind} {', '.join(settings)}"

    @property
    def needs_prompts(self) -> bool:
        return True

    @property
    def for_texts(self) -> str:
        return "heavy_hitter:S+W"

    @property
    def last(self) -> int:
        """The last tokens of a prompt, which choose and are kept."""
        return self._usual if self.observe == "auto" else self.observe

    @property
    def _usual(self) -> int | None:
        return None if self.window == "auto" else max(1, min(OBSERVED, self.window // 2))

    def resolve(self, context: int | None) -> tuple["Snap", str]:
        """`auto` as a window with sinks has it."""
        settled, reason = SinkWindow(sinks=self.sinks, window=self.window).resolve(context)
        found = self.model_copy(update={"window": settled.window})
        return found.model_copy(update={"observe": found.last}), reason

    @model_validator(mode="after")
    def _fits(self) -> "Snap":
        if self.pool % 2 == 0:
            raise ValueError(f"pool: {self.pool} has no middle; give an odd number")
        if self.observe != "auto" and self.window != "auto" and self.observe > self.window:
            raise ValueError(f"observe: {self.observe} are more than the window of {self.window}")
        return self

    def keep(self, own_window: int | None, layer: int = 0) -> Keep:
        """After a prompt: what a layer trained with `own_window` past keys (None: all) keeps."""
        return Keep(self.sinks, self.window) if own_window is None else Keep(0, own_window)

    def said(self, keep: Keep) -> str:
        chosen = f"{keep.window - self.last} that these attend to most" if keep.window > self.last else "none besides"
        return f"keeps of a prompt {keep.sinks} sinks, the last {self.last} and, in each head, {chosen}"
