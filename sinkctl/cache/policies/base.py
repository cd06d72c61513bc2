"""What every policy says of itself; a policy is a setting, its state lives in the cache."""

from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from sinkctl.cache.precision.settings import Precision
from sinkctl.cache.redistribution.settings import Redistribution
from sinkctl.errors import UsageError

Window = Annotated[int, Field(ge=1)] | Literal["auto"]
PRECISION = "Of keys and values that are not recent; null: as the model computes them."
REDISTRIBUTE = "Part of the first token's attention, given to the others in some heads; null: none."
WINDOW = "Recent tokens kept, the query itself not counted; auto fills the model's context."


class Keep(NamedTuple):
    """What one layer keeps after each token: the first `sinks`, and the last `window` (None: all)."""

    sinks: int
    window: int | None


class Policy(BaseModel):
    """Which keys and values stay in the cache."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    kind: str
    precision: Precision | None = Field(None, description=PRECISION)
    redistribute: Redistribution | None = Field(None, description=REDISTRIBUTE)

    @property
    def label(self) -> str:
        """What tables and pictures call it."""
        return ", ".join([self.size, *(each.label for each in (self.precision, self.redistribute) if each is not None)])

    @property
    def size(self) -> str:
        """What it is called at full precision, with attention as it is."""
        return self.kind

    @property
    def grows(self) -> bool:
        """Whether memory grows with the text, and the cache is made to its length."""
        return False

    @property
    def needs_prompts(self) -> bool:
        """Whether it does one thing up to the end of a prompt, and another after it."""
        return False

    @property
    def holds_first(self) -> bool:
        """Whether layers hold the first token for every query, in front of all else."""
        return False

    @property
    def for_texts(self) -> str:
        """What to take in its place where there are no prompts."""
        return "sink_window"

    def said(self, keep: Keep) -> str:
        """What a layer that keeps so much does, in words."""
        return "keeps everything" if keep.window is None else f"keeps {keep.sinks} sinks and the last {keep.window}"

    def check(self) -> None:
        """UsageError for what does not go together."""
        if self.precision is not None and (unused := self.precision.unused) is not None:
            raise UsageError(
                f"precision.{unused}: no predicted token is kept; give --kv-keep predicted, or leave it out"
            )
        if self.redistribute is None:
            return
        if not self.holds_first:
            raise UsageError(
                f"--redistribute {self.redistribute.share:g}: {self.size} has no first token in view of every query; "
                "give --policy S+W with a sink, layers, or dense"
            )
        if self.precision is not None:
            raise UsageError(
                f"--redistribute {self.redistribute.share:g}: not with keys and values in few bits; leave --kv out"
            )

    def check_scores(self) -> None:
        """UsageError where it has no part in scoring a text."""
        if self.needs_prompts:
            raise UsageError(
                f"--policy {self.size}: goes by where a prompt ends, and a text that is scored has no such place; give "
                f"{self.for_texts}, or ask it with --questions or --generate"
            )

    def resolve(self, context: int | None) -> tuple["Policy", str]:
        """Settle every `auto` for a model trained on `context` tokens; returns (policy, reason)."""
        return self, "as given"


class Bounded(Policy):
    """A policy whose cache never holds more than `sinks + window` tokens, and its slack."""

    sinks: int = 0
    window: Window = "auto"

    @property
    def size(self) -> str:
        return f"{self.sinks}+{self.window}"

    @property
    def reach(self) -> int:
        """The largest position in the cache: that of the query, once the cache is full."""
        return self.sinks + self.window + self.slack

    @property
    def slack(self) -> int:
        """Tokens that the cache may hold besides, until they are evicted."""
        return 0

    def resolve(self, context: int | None) -> tuple["Bounded", str]:
        """`auto`: W = context − S − 1, so that no position lies outside what the model was trained on."""
        if self.window != "auto":
            self.check()
            return self, "as given"
        if context is None:
            settled, _ = self.model_copy(update={"window": 1024}).resolve(None)
            return settled, "the model names no context length; 1024 as published"
        window = context - self.sinks - self.slack - 1
        if window < 1:
            raise UsageError(f"{self.sinks} sinks leave no window in the model's context of {context}; give --window")
        settled, _ = self.model_copy(update={"window": window}).resolve(context)
        waiting = f" − {self.slack} not evicted yet" if self.slack else ""
        return settled, f"context {context} − {self.sinks} sinks{waiting} − the query itself"

    def check(self) -> None:
        """UsageError for a precision that the window, where it is known, leaves no room for."""
        super().check()
        if self.precision is None or self.window == "auto":
            return
        recent, together, kept = self.precision.recent, self.precision.together, self.precision.kept
        if self.window < self.precision.least_window:
            what = f"group of {together} tokens" if together > 1 else "token"
            least = self.window - together
            instead = f"at most {least}" if least >= 0 else f"a window of {together} and more"
            usual = "" if "recent" in self.precision.model_fields_set else " (the default)"
            raise UsageError(
                f"--kv-recent {recent}{usual}: a window of {self.window} holds no {what} past those; give {instead}"
            )
        if kept > self.reach:
            raise UsageError(f"--kv-keep first:{kept}: {self.size} holds {self.reach} tokens; give at most so many")

    def keep(self, own_window: int | None, layer: int = 0) -> Keep:
        """What a layer trained with `own_window` past keys (None: all) keeps, whichever it is.

        A layer that the policy shortens gets the sinks; one trained on less stays as it was trained.
        """
        shortened = own_window is None or own_window > self.window
        return Keep(self.sinks, self.window) if shortened else Keep(0, own_window)
