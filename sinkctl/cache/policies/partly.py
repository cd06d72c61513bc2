"""What keeps everything in some places, and a window behind sinks in the others."""

from pydantic import Field

from sinkctl.cache.policies.base import WINDOW, Policy, Window
from sinkctl.cache.policies.sink_window import SinkWindow


class PartlyWhole(Policy):
    """A policy whose memory grows with the text in its whole places, and in the others no more once they are full."""

    sinks: int = Field(4, ge=0, description="Leading tokens never evicted in the others.")
    window: Window = Field("auto", description=WINDOW)

    @property
    def grows(self) -> bool:
        return True

    @property
    def others(self) -> SinkWindow:
        """The rule of the places that are not whole."""
        return SinkWindow(sinks=self.sinks, window=self.window, precision=self.precision)

    def check(self) -> None:
        """UsageError for what does not go together, there as well."""
        super().check()
        self.others.check()

    def resolve(self, context: int | None) -> tuple["PartlyWhole", str]:
        """`auto` as a window with sinks has it."""
        settled, reason = self.others.resolve(context)
        return self.model_copy(update={"window": settled.window}), reason
