"""What a case hands to the clock: ways of doing the same work, timed in turns; and numbers that need no clock."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from sinkctl.result.bench import Work


@dataclass(frozen=True)
class Way:
    """One way of doing a case's work."""

    run: Callable[[], Any]  # one call; it need not synchronise the device
    work: Work = field(default_factory=Work)
    once: bool = False  # so slow that a sample is one call, and one round warms it up
    other: str | None = None  # how its work differs from ours, which is then not called so many times as fast


@dataclass(frozen=True)
class Reading:
    """A number that no round times."""

    way: str
    metric: str
    unit: str
    better: Literal["higher", "lower", "neither"]
    value: float | list[float]  # several: of runs that repeat it
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """The ways of one size of a case, by name (`OURS` first), and what they are measured in."""

    metric: str = "ms"  # METRICS
    ways: dict[str, Way] = field(default_factory=dict)
    yardstick: str | None = None  # the way that shows the machine's speed, and has none of our code in it
    readings: list[Reading] = field(default_factory=list)
    choices: dict[str, str] = field(default_factory=dict)  # automatic ones → "value: reason"


@dataclass(frozen=True)
class Metric:
    """How seconds a call become the number that is shown."""

    unit: str
    better: Literal["higher", "lower"]
    of: Callable[[float, float], float]  # (seconds a call, count a call) → value; its own inverse in both


METRICS = {
    "tokens_per_s": Metric("tok/s", "higher", lambda seconds, count: count / seconds),
    "ms_per_token": Metric("ms", "lower", lambda seconds, count: 1e3 * seconds / count),
    "ms": Metric("ms", "lower", lambda seconds, count: 1e3 * seconds),
}
