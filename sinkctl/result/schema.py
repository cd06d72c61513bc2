"""The one result every task returns; `result.json` is this, and reports are pure functions of it."""

import statistics
from typing import Any, Literal

from pydantic import Field, computed_field

from sinkctl.clock import phases
from sinkctl.result.bench import BenchDetail
from sinkctl.result.convert import ConvertDetail
from sinkctl.result.defaults import USED
from sinkctl.result.generate import GenerateDetail
from sinkctl.result.measure import MeasureDetail
from sinkctl.result.questions import QuestionsDetail
from sinkctl.result.record import ModelReport, Record
from sinkctl.result.registers import RegistersDetail
from sinkctl.result.stream import StreamDetail

SCHEMA_VERSION = 1


class Measurement(Record):
    """One number, its unit, which direction is better, and the samples behind it."""

    name: str
    samples: list[float]
    unit: str
    better: Literal["higher", "lower", "neither"]

    @computed_field
    @property
    def value(self) -> float:
        """Median of the samples."""
        return statistics.median(self.samples)


class Result(Record):
    """Everything a run found."""

    schema_version: Literal[1] = SCHEMA_VERSION
    task: str
    sinkctl_version: str
    recipe: dict[str, Any]
    model: ModelReport | None = Field(description="None where no model ran: operators alone.")
    choices: dict[str, str] = Field(default_factory=dict, description="Automatic choices: what → value: reason.")
    settings: dict[str, str] = Field(
        default_factory=lambda: dict(USED), description="What came from the settings file: setting → value and place."
    )
    seconds: float = Field(
        description="From the start of the process (of a Python call) until this was written; with what a stopped run "
        "took before it was resumed."
    )
    phases: dict[str, float] = Field(default_factory=dict, description="The same by phase, in the order they began.")
    complete: bool
    measurements: list[Measurement]
    verdict: list[str] = Field(default_factory=list, description="What the run says, in words.")
    notes: list[str] = Field(default_factory=list)
    stream: StreamDetail | None = None
    generate: GenerateDetail | None = None
    questions: QuestionsDetail | None = None
    measure: MeasureDetail | None = None
    convert: ConvertDetail | None = None
    registers: RegistersDetail | None = None
    bench: BenchDetail | None = None

    def clocked(self) -> "Result":
        """The same, with the seconds up to now of the clock that runs, if one does."""
        found = phases()
        return self.model_copy(update={"phases": found, "seconds": sum(found.values())} if found else {})

    def measurement(self, name: str) -> Measurement | None:
        """The measurement called `name`, if there is one."""
        return next((m for m in self.measurements if m.name == name), None)
