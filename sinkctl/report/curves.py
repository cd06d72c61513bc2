"""What of a perplexity curve is drawn, and how that is said."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from sinkctl.report.picture import LinePicture, bytes_scale, with_points
from sinkctl.result import numbers
from sinkctl.result.stream import CurvePoint, MemorySample, PolicyScore

SMOOTH_ABOVE = 150
MOST_POINTS = 400
HIGHEST = 1e4  # perplexity; above it only "broken" is left to say, and the rest of the picture needs the room


class Dot(NamedTuple):
    """A place in a picture: position in tokens, and NLL in nats (or memory in bytes)."""

    x: float
    y: float


@dataclass(frozen=True)
class Line:
    """One curve as drawn; `measured` holds what the moving mean `dots` was taken over, where it was."""

    label: str
    dots: list[Dot]
    measured: list[Dot]
    span: int = 1


def lines(policies: list[PolicyScore]) -> list[Line]:
    """One line a policy, in the same order, also for a policy without scores."""
    return [_line(policy) for policy in policies]


def perplexity_picture(policies: list[PolicyScore], where: str = "the text") -> LinePicture | None:
    """Perplexity (logarithmic) against position, a line a policy; None without a score."""
    drawn = lines(policies)
    return with_points(
        LinePicture(
            name="perplexity",
            title="Perplexity against position",
            x_title="position in the text (tokens)",
            y_title="perplexity (log scale)",
            lines={line.label: _as_perplexity(line.dots) for line in drawn},
            faint={line.label: _as_perplexity(line.measured) for line in drawn if line.measured},
            log_y=True,
            guides=tuple((float(at), f"context {at}") for at in contexts(policies)),
            caption=" ".join([f"Position in {where}.", *captions(policies)]),
            wide=True,
        )
    )


def memory_picture(samples: list[MemorySample], title: str) -> LinePicture:
    """Memory of the process, and of the device if there is one, from 0, so that flat looks flat."""
    most = max(max(sample.process_bytes, sample.device_bytes or 0) for sample in samples)
    scale, unit = bytes_scale(most)
    lines = {"process": [(float(sample.tokens), sample.process_bytes / scale) for sample in samples]}
    if device := [(float(s.tokens), s.device_bytes / scale) for s in samples if s.device_bytes is not None]:
        lines["device"] = device
    said = "; ".join(f"{kind}: at most {max(y for _, y in line):.3g} {unit}" for kind, line in lines.items())
    return LinePicture("memory", title, "tokens", f"memory, {unit}", lines, caption=f"{said}.")


def _as_perplexity(dots: list[Dot]) -> list[tuple[float, float]]:
    return [(dot.x, math.exp(dot.y)) for dot in dots]


def contexts(policies: list[PolicyScore]) -> list[int]:
    """Positions inside the picture where a policy leaves the model's context."""
    end = last_position(policies)
    left = {policy.extrapolates_from for policy in policies if policy.extrapolates_from is not None}
    return sorted(position for position in left if position <= end)


def last_position(policies: list[PolicyScore]) -> int:
    """Where the longest curve ends."""
    return max((point.end for policy in policies for point in policy.curve), default=0)


def captions(policies: list[PolicyScore]) -> list[str]:
    """Sentences that say how the curves were drawn: points, moving mean, clipping, gaps."""
    drawn = lines(policies)
    points = [point for policy in policies for point in policy.curve]
    said = []
    if points:
        widest = max(point.end - point.first for point in points)
        said.append(f"Measured over stretches of up to {numbers.count(widest)} {'token' if widest == 1 else 'tokens'}.")
    span = max((line.span for line in drawn), default=1)
    if span > 1:
        said.append(f"Lines: moving mean of the NLL over {span} neighbouring points; faint: the points as measured.")
    highest = max((point.nll for point in points if not math.isnan(point.nll)), default=0.0)
    if highest > math.log(HIGHEST):
        said.append(f"Perplexities above {HIGHEST:,.0f} are drawn at {HIGHEST:,.0f}.")
    missing = sum(math.isnan(point.nll) for point in points)
    if missing:
        points_are = (
            "1 point without a number is" if missing == 1 else f"{numbers.count(missing)} points without a number are"
        )
        said.append(f"{points_are} left out.")
    return said


def _line(policy: PolicyScore) -> Line:
    points = _joined([point for point in policy.curve if point.tokens and not math.isnan(point.nll)])
    measured = [Dot((point.first + point.end) / 2, point.nll) for point in points]
    span = 2 * (len(points) // 80) + 1 if len(points) > SMOOTH_ABOVE else 1
    if span == 1:
        return Line(policy.label, [_clipped(dot) for dot in measured], [])
    boundary = sum(dot.x < (policy.extrapolates_from or 0) for dot in measured)
    smooth = _moving_mean(measured[:boundary], span) + _moving_mean(measured[boundary:], span)
    return Line(policy.label, [_clipped(dot) for dot in smooth], [_clipped(dot) for dot in measured], span)


def _joined(curve: list[CurvePoint]) -> list[CurvePoint]:
    """Neighbours joined into their mean over tokens, until there are at most MOST_POINTS."""
    size = math.ceil(len(curve) / MOST_POINTS)
    groups = [curve[i : i + size] for i in range(0, len(curve), size)] if size > 1 else [[point] for point in curve]
    return [_mean_point(group) for group in groups]


def _mean_point(group: list[CurvePoint]) -> CurvePoint:
    tokens = sum(point.tokens for point in group)
    nll = sum(point.nll * point.tokens for point in group) / tokens
    return CurvePoint(first=group[0].first, end=group[-1].end, nll=nll, tokens=tokens)


def _moving_mean(dots: list[Dot], span: int) -> list[Dot]:
    """Mean over `span` dots around each; over fewer at the start, so that a steep start is not smeared."""
    means = []
    for i, dot in enumerate(dots):
        reach = min(span // 2, i)
        near = dots[i - reach : i + reach + 1]
        means.append(Dot(dot.x, sum(d.y for d in near) / len(near)))
    return means


def _clipped(dot: Dot) -> Dot:
    return Dot(dot.x, min(dot.y, math.log(HIGHEST)))
