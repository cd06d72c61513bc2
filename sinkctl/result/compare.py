"""What `--fail-on` asks: `METRIC<=NUMBER`, `METRIC>=NUMBER`, and of a benchmark `METRIC:PERCENT%`."""

import difflib
import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from sinkctl.errors import ThresholdError, UnmeasuredError, UsageError
from sinkctl.result.bench import OURS, Change, Row

if TYPE_CHECKING:
    from sinkctl.result.schema import Measurement, Result


class Threshold(NamedTuple):
    """What a measurement must satisfy."""

    metric: str
    sign: str
    limit: float

    def holds(self, value: float) -> bool:
        return value <= self.limit if self.sign == "<=" else value >= self.limit


class Tolerance(NamedTuple):
    """How many percent worse than in the baseline a metric of a benchmark may be."""

    metric: str
    percent: float


Gate = Threshold | Tolerance


def parse(text: str) -> Threshold:
    """One `--fail-on` of a run that has no baseline; UsageError says how it is written."""
    gate = _parsed(text)
    if isinstance(gate, Threshold):
        return gate
    what = "METRIC:PERCENT% is for `sinkctl bench`; " if gate else ""
    raise UsageError(f"--fail-on {text}: {what}write METRIC<=NUMBER or METRIC>=NUMBER, such as perplexity<=30")


def parse_gate(text: str) -> Gate:
    """One `--fail-on` of a benchmark; UsageError says how it is written."""
    gate = _parsed(text)
    if gate is None:
        raise UsageError(
            f"--fail-on {text}: write METRIC:PERCENT%, such as decode.ms_per_token:5%, or METRIC<=NUMBER or "
            "METRIC>=NUMBER"
        )
    return gate


def _parsed(text: str) -> Gate | None:
    if match := re.fullmatch(r"(.+?)(<=|>=)(.+)", text):
        try:
            limit = float(match[3])
        except ValueError:
            return None
        return None if math.isnan(limit) else Threshold(match[1].strip(), match[2], limit)
    if match := re.fullmatch(r"(.+):\s*(\d+\.?\d*)\s*%\s*", text):
        return Tolerance(match[1].strip(), float(match[2]))
    return None


def check_names(thresholds: Sequence[Gate], names: Sequence[str]) -> None:
    """Raise UsageError for a metric that the run will not measure."""
    for threshold in thresholds:
        if threshold.metric not in names:
            close = difflib.get_close_matches(threshold.metric, names, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"one of {', '.join(names)}"
            raise UsageError(f"--fail-on {threshold.metric}: this run measures no such thing; {hint}")


def gate_names(rows: Iterable[Row]) -> list[str]:
    """What a gate of a benchmark may name: `case.metric`, any size of ours, and every row in full."""
    rows = list(rows)
    return list(dict.fromkeys([f"{r.case}.{r.metric}" for r in rows if r.way == OURS] + [r.name for r in rows]))


def rows_meant(rows: Iterable[Row], metric: str) -> list[Row]:
    """The row of that full name; else ours of that `case.metric`, at every size."""
    rows = list(rows)
    exact = [row for row in rows if row.name == metric]
    return exact or [row for row in rows if row.way == OURS and f"{row.case}.{row.metric}" == metric]


class Judged(NamedTuple):
    """What thresholds found, a phrase each."""

    failed: list[str]  # what does not hold
    unanswered: list[str]  # what could not be measured, or not be compared with the baseline

    @property
    def said(self) -> list[str]:
        return [*self.failed, *self.unanswered]

    def check(self) -> None:
        """ThresholdError where something failed, UnmeasuredError where only the answer is missing; both name all."""
        if self.said:
            raise (ThresholdError if self.failed else UnmeasuredError)("; ".join(self.said))


def judge(result: "Result", gates: Iterable[Gate]) -> Judged:
    """Hold the result against thresholds; relative ones need a baseline that it was compared with."""
    judged = Judged([], [])
    for gate in gates:
        found = _worse(result, gate) if isinstance(gate, Tolerance) else _crossed(result, gate)
        for phrases, new in zip(judged, found, strict=True):
            phrases += [phrase for phrase in new if phrase not in phrases]
    return judged


def thresholds(result: "Result") -> list[tuple[str, bool, str]]:
    """Of its own recipe's thresholds those that are no change: (as written, whether it holds, what does not).

    The absolute ones, and relative ones that nothing could be compared for.
    """
    found = []
    for text in result.recipe.get("fail_on", ()):
        gate = parse_gate(text)
        if isinstance(gate, Threshold):
            said = "; ".join(_crossed(result, gate).said)
            found.append((text, not said, said))
        elif result.bench.baseline is not None and (missing := _worse(result, gate).unanswered):
            found.append((text, False, "; ".join(missing)))
    return found


def _crossed(result: "Result", threshold: Threshold) -> Judged:
    found = _meant(result, threshold.metric)
    limit = f"{threshold.sign} {threshold.limit:g}"
    refused = _refused(result, threshold.metric)
    if not found and not refused:
        return Judged([], [_unmeasured(result, threshold.metric)])
    known = [m for m in found if not math.isnan(m.value)]
    return Judged(
        [f"{m.name} is {m.value:.6g}, not {limit}" for m in known if not threshold.holds(m.value)],
        [*(f"{m.name} could not be measured (it came out as nan)" for m in found if m not in known), *refused],
    )


def _worse(result: "Result", tolerance: Tolerance) -> Judged:
    """Gates on changes that failed, and those that nothing answers."""
    assert result.bench is not None, "only a benchmark has changes"
    names = [row.name for row in rows_meant(result.bench.rows, tolerance.metric)]
    refused = _refused(result, tolerance.metric)
    if not names and not refused:
        return Judged([], [_unmeasured(result, tolerance.metric)])
    changes = {change.name: change for change in result.bench.changes}
    return Judged(
        [worse_by(changes[name]) for name in names if name in changes and changes[name].failed],
        [*(f"{name} could not be compared with the baseline" for name in names if name not in changes), *refused],
    )


def _refused(result: "Result", metric: str) -> list[str]:
    """Rows of a benchmark that a gate asks for and that could not be measured."""
    refused: dict[str, list[str]] = {}
    for each in [] if result.bench is None else result.bench.refused:
        if each.means(metric):
            refused.setdefault(each.why, []).append(f"{each.case} {each.label}")
    more = {why: f" and {len(rows) - 1} more" * (len(rows) > 1) for why, rows in refused.items()}
    return [f"{rows[0]}{more[why]} could not be measured: {why}" for why, rows in refused.items()]


def _unmeasured(result: "Result", metric: str) -> str:
    names = [m.name for m in result.measurements] + (gate_names(result.bench.rows) if result.bench else [])
    close = difflib.get_close_matches(metric, names, 1)
    return f"{metric} could not be measured{f'; {close[0]} was' if close else ''}"


def worse_by(change: Change) -> str:
    """A failed gate in words."""
    assert change.limit is not None
    exact = change.low == change.percent == change.high
    interval = "" if exact else f"{change.low:.1f} … {change.high:.1f}; "
    timed = "" if abs(change.percent - change.raw_percent) < 0.05 else f" ({change.raw_percent:.1f} % as timed)"
    return (
        f"{change.name} is worse by {change.percent:.1f} % ({interval}allowed {change.limit:g} %): "
        f"{_four_digits(change.before)} → {_four_digits(change.now)} {change.unit}{timed}"
    )


def _four_digits(value: float) -> str:
    if not math.isfinite(value) or abs(value) < 1000:
        return f"{value:.4g}"
    return f"{float(f'{value:.4g}'):,.0f}"


def _meant(result: "Result", metric: str) -> "Sequence[Measurement | Row]":
    """The measurement of that name; of several checkpoints, where none is named (`metric@label`), that of each."""
    exact = result.measurement(metric)
    if exact is None and result.measure is not None and len(result.measure.checkpoints) == 1:
        exact = result.measurement(metric.removesuffix(f"@{result.measure.checkpoints[0].label}"))
    if exact is None and result.bench is not None:
        return rows_meant(result.bench.rows, metric)
    return [exact] if exact else [m for m in result.measurements if m.name.partition("@")[0] == metric]
