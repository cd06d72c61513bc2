"""Policies that choose what to evict: by the attention it got, or at random."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from sinkctl.cache.policies.base import WINDOW, Bounded, Keep, Window

Recent = Annotated[int, Field(ge=1)] | Literal["auto"]


class Evicting(Bounded):
    """Keep the first `sinks`, the last `recent`, and of what is between as many as make `sinks + window`.

    A key meets a query at their distance in the cache, in each head its own.
    """

    sinks: int = Field(4, ge=0, description="Leading tokens never evicted, whatever attention they got.")
    window: Window = Field("auto", description=WINDOW)
    recent: Recent = Field(
        "auto",
        description="Of the window, so many are the last tokens; the others are chosen, each head its own. auto: half.",
    )
    every: int = Field(
        1,
        ge=1,
        description="Evict once in so many tokens, counted from the stream's beginning; until then the cache grows "
        "past its size.",
    )
    precision: None = Field(None, description="Not together with eviction: a group of tokens does not stay one.")
    chosen: ClassVar[str]  # what the others are

    @property
    def size(self) -> str:
        settings = [f"{self.sinks}+{self.window}"]
        if self.recent not in ("auto", self._half):
            settings.append(f"recent {self.recent}")
        if self.every > 1:
            settings.append(f"every {self.every}")
        return f"{self.kind} {', '.join(settings)}"

    @property
    def last(self) -> int:
        """The last tokens that are always kept."""
        return self._half if self.recent == "auto" else self.recent

    @property
    def _half(self) -> int | None:
        return None if self.window == "auto" else max(1, self.window // 2)

    @property
    def slack(self) -> int:
        return self.every - 1

    def resolve(self, context: int | None) -> tuple["Evicting", str]:
        """`recent` too."""
        settled, reason = super().resolve(context)
        return settled.model_copy(update={"recent": settled.last}), reason

    @model_validator(mode="after")
    def _fits(self) -> "Evicting":
        if self.recent != "auto" and self.window != "auto" and self.recent > self.window:
            raise ValueError(f"recent: {self.recent} are more than the window of {self.window}")
        return self

    def said(self, keep: Keep) -> str:
        chosen = f"{keep.window - self.last} {self.chosen}" if keep.window > self.last else "none besides"
        return f"keeps {keep.sinks} sinks, the last {self.last} and, in each head, {chosen}"


class HeavyHitter(Evicting):
    """Keep what got most attention so far, summed over queries (H2O, Zhang et al. 2023, arXiv 2306.14048)."""

    kind: Literal["heavy_hitter"] = "heavy_hitter"
    chosen: ClassVar[str] = "that got most attention"


class RandomKept(Evicting):
    """Evict at random: the control that every choice has to beat."""

    kind: Literal["random"] = "random"
    seed: int = Field(0, ge=0, description="Draws what is evicted.")
    chosen: ClassVar[str] = "left by chance"

    @property
    def size(self) -> str:
        return f"{super().size}, seed {self.seed}" if self.seed else super().size
