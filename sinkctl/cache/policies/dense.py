"""Everything kept."""

from typing import Literal

from sinkctl.cache.policies.base import Keep, Policy


class Dense(Policy):
    """Keep every token; memory grows with the text, and past the trained context positions are extrapolated.

    Models with learned positions stop at their context.
    """

    kind: Literal["dense"] = "dense"

    @property
    def grows(self) -> bool:
        return True

    @property
    def holds_first(self) -> bool:
        return True

    def keep(self, own_window: int | None, layer: int = 0) -> Keep:
        """Every layer as it was trained."""
        return Keep(0, own_window)
