"""How long what is left of a benchmark takes: what was measured once takes as long in another process."""

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from statistics import fmean


@dataclass
class Pace:
    """Groups of measurements, in the order in which they come; the first is under way, or the next."""

    ahead: list[Hashable] = field(default_factory=list)
    now: Callable[[], float] = time.monotonic
    _took: dict[Hashable, float] = field(default_factory=dict)  # the last time
    _began: float | None = None

    def begin(self) -> None:
        """The first group ahead."""
        self._began = self.now()

    def end(self) -> None:
        """The group under way."""
        self._took[self.ahead.pop(0)] = self.now() - self._began
        self._began = None

    def skip(self, groups: Sequence[Hashable]) -> None:
        """Groups that turn out to be there already."""
        for group in groups:
            self.ahead.remove(group)

    @property
    def seconds_left(self) -> float | None:
        """Groups not measured yet take the mean of those that were; None before the first."""
        if not self._took:
            return None
        mean = fmean(self._took.values())
        expected = [self._took.get(group, mean) for group in self.ahead]
        under_way = 0.0 if self._began is None else min(self.now() - self._began, expected[0])
        return sum(expected) - under_way
