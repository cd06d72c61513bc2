"""Thresholds on measurements: `METRIC<=NUMBER`, `METRIC>=NUMBER`."""

import difflib
import re
from collections.abc import Sequence
from typing import NamedTuple

from sinkctl.errors import ThresholdError, UsageError
from sinkctl.result.schema import Measurement, Result


class Threshold(NamedTuple):
    """What a measurement must satisfy."""

    metric: str
    sign: str
    limit: float

    def holds(self, value: float) -> bool:
        return value <= self.limit if self.sign == "<=" else value >= self.limit


def parse(text: str) -> Threshold:
    """One `--fail-on`; UsageError says how it is written."""
    match = re.fullmatch(r"(.+?)(<=|>=)(.+)", text)
    try:
        return Threshold(match[1].strip(), match[2], float(match[3]))
    except (TypeError, ValueError) as error:
        raise UsageError(f"--fail-on {text}: write METRIC<=NUMBER or METRIC>=NUMBER, such as perplexity<=30") from error


def check_names(thresholds: list[Threshold], names: Sequence[str]) -> None:
    """Raise UsageError for a metric that the run will not measure."""
    for threshold in thresholds:
        if threshold.metric not in names:
            close = difflib.get_close_matches(threshold.metric, names, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"one of {', '.join(names)}"
            raise UsageError(f"--fail-on {threshold.metric}: this run measures no such thing; {hint}")


def check(result: Result, thresholds: list[Threshold]) -> None:
    """Raise ThresholdError, naming every threshold that does not hold or could not be measured."""
    broken = []
    for threshold in thresholds:
        found = _meant(result, threshold.metric)
        if not found:
            broken.append(f"{threshold.metric} could not be measured")
        for measurement in found:
            if not threshold.holds(measurement.value):
                limit = f"{threshold.sign} {threshold.limit:g}"
                broken.append(f"{measurement.name} is {measurement.value:.6g}, not {limit}")
    if broken:
        raise ThresholdError("; ".join(broken))


def _meant(result: Result, metric: str) -> list[Measurement]:
    """The measurement of that name; of several checkpoints, where none is named (`metric@label`), that of each."""
    exact = result.measurement(metric)
    if exact is None and result.measure is not None and len(result.measure.checkpoints) == 1:
        exact = result.measurement(metric.removesuffix(f"@{result.measure.checkpoints[0].label}"))
    return [exact] if exact else [m for m in result.measurements if m.name.partition("@")[0] == metric]
