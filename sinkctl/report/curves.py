"""What of a perplexity curve is drawn, and how that is said."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from sinkctl.report.parts import LinePicture, bytes_scale, line_picture
from sinkctl.result.numbers import count
from sinkctl.result.stream import CurvePoint, MemorySample, PolicyScore

SMOOTH_ABOVE = 150
MOST_POINTS = 400
HIGHEST = 1e4  # perplexity; above it only "broken" is left to say, and the rest of the picture needs the room


class Dot(NamedTuple):
    """A place in a picture: position in tokens, and NLL in nats."""

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
    words = ("perplexity", "Perplexity against position", "position in the text (tokens)", "perplexity (log scale)")
    guides = tuple((float(at), f"context {at}") for at in contexts(policies))
    caption = " ".join([f"Position in {where}.", *captions(policies)])
    return curve_picture(words, lines(policies), math.exp, log_y=True, guides=guides, caption=caption)


def curve_picture(
    words: tuple[str, str, str, str], drawn: list[Line], shown: Callable[[float], float], **settings: Any
) -> LinePicture | None:
    """The curves with what they are the moving mean of, each loss as `shown` says it."""
    line, faint = (
        {each.label: [(dot.x, shown(dot.y)) for dot in dots] for each in drawn if (dots := getattr(each, of))}
        for of in ("dots", "measured")
    )
    return line_picture(*words, line, faint=faint, wide=True, **settings)


def memory_picture(samples: list[MemorySample], title: str) -> LinePicture | None:
    """Memory of the process, and of the device if there is one, from 0, so that flat looks flat."""
    scale, unit = bytes_scale(max((max(s.process_bytes, s.device_bytes or 0) for s in samples), default=1))
    of = {"process": lambda sample: sample.process_bytes, "device": lambda sample: sample.device_bytes}
    lines = {kind: [(s.tokens, n / scale) for s in samples if (n := read(s)) is not None] for kind, read in of.items()}
    most = [f"{kind}: at most {max(y for _, y in line):.3g} {unit}" for kind, line in lines.items() if line]
    return line_picture("memory", title, "tokens", f"memory, {unit}", lines, caption=f"{'; '.join(most)}.")


def contexts(policies: list[PolicyScore]) -> list[int]:
    """Positions inside the picture where a policy leaves the model's context."""
    end = max((point.end for policy in policies for point in policy.curve), default=0)
    left = {policy.extrapolates_from for policy in policies if policy.extrapolates_from is not None}
    return sorted(position for position in left if position <= end)


def captions(policies: list[PolicyScore]) -> list[str]:
    """Sentences that say how the curves were drawn: points, moving mean, clipping, gaps."""
    points, said = [point for policy in policies for point in policy.curve], []
    if points:
        widest = max(point.end - point.first for point in points)
        said.append(f"Measured over stretches of up to {count(widest)} {'token' if widest == 1 else 'tokens'}.")
    if (span := max((line.span for line in lines(policies)), default=1)) > 1:
        said.append(f"Lines: moving mean of the NLL over {span} neighbouring points; faint: the points as measured.")
    if any(point.nll > math.log(HIGHEST) for point in points):
        said.append(f"Perplexities above {HIGHEST:,.0f} are drawn at {HIGHEST:,.0f}.")
    if missing := sum(math.isnan(point.nll) for point in points):
        are = "1 point without a number is" if missing == 1 else f"{count(missing)} points without a number are"
        said.append(f"{are} left out.")
    return said


def _line(policy: PolicyScore) -> Line:
    points = _joined([point for point in policy.curve if point.tokens and not math.isnan(point.nll)])
    measured = [Dot((point.first + point.end) / 2, min(point.nll, math.log(HIGHEST))) for point in points]
    span = 2 * (len(points) // 80) + 1 if len(points) > SMOOTH_ABOVE else 1
    if span == 1:
        return Line(policy.label, measured, [])
    boundary = sum(dot.x < (policy.extrapolates_from or 0) for dot in measured)
    smooth = [
        dot._replace(y=min(dot.y, math.log(HIGHEST)))
        for part in (points[:boundary], points[boundary:])
        for dot in _moving_mean(part, span)
    ]
    return Line(policy.label, smooth, measured, span)


def _joined(curve: list[CurvePoint]) -> list[CurvePoint]:
    """Neighbours joined into their mean over tokens, until there are at most MOST_POINTS."""
    size = math.ceil(len(curve) / MOST_POINTS)
    if size <= 1:
        return curve
    joined = []
    for group in (curve[i : i + size] for i in range(0, len(curve), size)):
        tokens = sum(point.tokens for point in group)
        nll = sum(point.nll * point.tokens for point in group) / tokens
        joined.append(CurvePoint(first=group[0].first, end=group[-1].end, nll=nll, tokens=tokens))
    return joined


def _moving_mean(points: list[CurvePoint], span: int) -> list[Dot]:
    """Mean over `span` points around each; over fewer at the start, so that a steep start is not smeared."""
    means = []
    for i, point in enumerate(points):
        reach = min(span // 2, i)
        near = points[i - reach : i + reach + 1]
        means.append(Dot((point.first + point.end) / 2, sum(one.nll for one in near) / len(near)))
    return means
