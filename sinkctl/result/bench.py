"""The part of a result that only `bench` has."""

import statistics
from typing import Any, Literal

from pydantic import Field, computed_field

from sinkctl.result.record import Record

OURS = "sinkctl"  # the way that is ours
Limit = Literal["matmul", "copy", "read"]


class Rate(Record):
    """What the hardware was seen to do in the same run: "matmul" in FLOP/s, "copy" and "read" in bytes/s."""

    name: Limit
    samples: list[float]

    @computed_field
    @property
    def value(self) -> float:
        return statistics.median(self.samples)


class Work(Record):
    """What one call of a way does: what it is counted in, and what no hardware can leave out."""

    count: float = Field(1, description="Tokens, steps or sequences a call; what a rate or latency is counted in.")
    flops: float | None = Field(None, description="Floating-point operations of matrix products.")
    bytes: float | None = Field(None, description="Bytes that must be read or written, about as many of each.")
    read: float | None = Field(None, description="Bytes that must be read, where next to none are written.")


class Row(Record):
    """One way at one size: samples, interval, floor."""

    case: str
    label: str = Field(description="The size: 4+252.")
    size: dict[str, int | float | str] = Field(description="The same in numbers: sinks, window, chunk, rows, tokens …")
    way: str = Field(description="sinkctl, or the peer.")
    metric: str = Field(description="tokens_per_s, ms_per_token, ms, peak_memory, perplexity, …")
    unit: str
    better: Literal["higher", "lower", "neither"]
    samples: list[list[float]] = Field(description="In the unit, by process and round.")
    low: float | None = Field(None, description="95 % bootstrap interval of the median; none for what is not timed.")
    high: float | None = None
    yardstick: str | None = Field(None, description="The way, timed in turns with it, that shows the machine's speed.")
    work: Work | None = None
    floor: float | None = Field(None, description="The value at the hardware's limit, in the unit.")
    floor_of: Limit | None = Field(None, description="Which limit that is.")
    added_bytes: int | None = Field(
        None,
        description="Most memory a call takes beside what was held before: on the device, else the process.",
    )
    detail: dict[str, Any] = Field(default_factory=dict, description="What only this kind of case has.")

    @property
    def name(self) -> str:
        """case.label.metric, for a peer case.label.way.metric."""
        return ".".join([self.case, self.label, *([] if self.way == OURS else [self.way]), self.metric])

    @computed_field
    @property
    def value(self) -> float:
        """Median over all processes and rounds."""
        return statistics.median(sample for process in self.samples for sample in process)

    @property
    def share(self) -> float | None:
        """Of the floor: 1 is the hardware's limit."""
        if self.floor is None or not self.value:
            return None
        return self.value / self.floor if self.better == "higher" else self.floor / self.value


class Refused(Record):
    """A case at a size that could not be measured here, which left the others theirs."""

    case: str
    label: str
    size: dict[str, int | float | str]
    way: str
    why: str = Field(description="What was said.")

    def means(self, metric: str) -> bool:
        """Whether a threshold on `metric`, `case.metric` or a row in full, asks for it."""
        case, *rest = metric.split(".")
        ours = self.way == OURS
        named = [self.label] if ours else [self.label, self.way]
        return case == self.case and (rest[:-1] == named or (ours and len(rest) == 1))


class Fit(Record):
    """`metric` of a way ∝ size ** exponent, over the sizes that differ in nothing else."""

    case: str
    way: str
    metric: str = Field(description="seconds or bytes")
    over: str = Field(description="The size that grows: window, tokens, …")
    exponent: float
    low: float | None = Field(description="95 % bootstrap interval; none for what is not timed.")
    high: float | None
    sizes: list[float]


class Change(Record):
    """A row beside the same row of a baseline; positive is worse, in percent."""

    name: str
    unit: str
    before: float
    now: float
    percent: float = Field(description="Worse by, the machine's own change taken out where a yardstick shows it.")
    low: float = Field(description="95 % interval.")
    high: float
    raw_percent: float = Field(description="Worse by, as timed.")
    limit: float | None = Field(None, description="What --fail-on allows; none: not gated.")
    failed: bool = False
    first_percent: float | None = Field(None, description="In the first run, where a second was taken; else none.")

    @property
    def reran(self) -> bool:
        """Whether it was measured twice."""
        return self.first_percent is not None


class Machine(Record):
    """What a number depends on beside the code; two runs are compared only where all of it is the same."""

    device: str = Field(description="The GPU, or the processor and how many of it.")
    threads: int
    dtype: str
    model: str = Field(description="Fingerprint of the checkpoint, or the shape.")
    versions: dict[str, str | None] = Field(description="python, torch, transformers, triton, cuda, driver.")


class BenchDetail(Record):
    """Everything a benchmark found."""

    suite: str
    machine: Machine
    rates: list[Rate]
    rows: list[Row]
    refused: list[Refused] = Field(default_factory=list, description="What could not be measured, and why.")
    fits: list[Fit] = Field(default_factory=list)
    changes: list[Change] = Field(default_factory=list)
    baseline: str | None = Field(None, description="What the changes are against: a file, or a commit.")
    cases: dict[str, dict[str, Any]] = Field(default_factory=dict, description="Settings of each case, without peers.")
    environment: dict[str, Any] = Field(default_factory=dict, description="Of the processes that measured.")
    settings: dict[str, Any] = Field(default_factory=dict, description="rounds, processes, …")
