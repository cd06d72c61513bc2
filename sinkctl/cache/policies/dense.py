"""Everything kept."""

from typing import Literal

from sinkctl.cache.policies.base import Keep, Policy


class Dense(Policy):
    """Keep every token; memory grows with the text, and past the trained context positions are extrapolated.

    Models with learned positions stop at their context.
    """

    kind: Literal["dense"] = "dense"

    def keep(self, own_window: int | None) -> Keep:
        """Every layer as it was trained."""
        return Keep(0, own_window)
