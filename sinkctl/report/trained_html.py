"""The training of a checkpoint as a section of a page: facts, the loss by step, and what was measured on the way."""

import math

from sinkctl.report.axis import number_axis
from sinkctl.report.curves import HIGHEST, MOST_POINTS, Line
from sinkctl.report.linepicture import line_svg
from sinkctl.report.parts import figure, section, table
from sinkctl.report.svg import draw
from sinkctl.report.trained import STEP, loss_lines, probe_pictures, training_facts
from sinkctl.result.convert import Training
from sinkctl.result.numbers import count, figures

TITLE = "Training loss"
CLIPPED = math.log(HIGHEST)


def trained(training: Training, mechanism: str) -> list[str]:
    """The whole section."""
    parts = table(training_facts(training, mechanism))
    drawn = loss_lines(training)
    if any(line.dots for line in drawn):
        parts += figure(_losses(training, drawn), " ".join([f"{TITLE}.", *_captions(training, drawn)]))
    probes = []
    for picture in probe_pictures(training):
        probes += figure(line_svg(picture, picture.name), f"{picture.title}. {picture.caption}")
    return section("Training", parts + (['<div class="plots">', *probes, "</div>"] if probes else []))


def _losses(training: Training, drawn: list[Line]) -> str:
    """All runs in one picture, means over what was measured."""
    values = [dot.y for line in drawn for dot in (*line.dots, *line.measured)]
    low, high = min(values), max(values)
    pad = max(0.05 * (high - low), 0.01)
    ends = "; ".join(
        f"{line.label}: from {figures(line.dots[0].y)} to {figures(line.dots[-1].y)}" for line in drawn if line.dots
    )
    return draw(
        drawn,
        number_axis(0, max(len(curve.loss) for curve in training.curves), most=8, whole=True),
        number_axis(max(0.0, low - pad), high + pad, most=6),
        name="training-loss",
        titles=(TITLE, STEP, "loss (nats a token)"),
        description=f"{ends}. {' '.join(_captions(training, drawn))}",
        guides=[],
        height=340,
    )


def _captions(training: Training, drawn: list[Line]) -> list[str]:
    """How the curves were drawn."""
    losses = [[loss for loss in curve.loss if not math.isnan(loss)] for curve in training.curves]
    said = ["Next-token loss of each step's sequences."]
    joined = max(math.ceil(len(known) / MOST_POINTS) for known in losses)
    said += [f"A point is the mean of up to {joined} steps."] if joined > 1 else []
    span = max(line.span for line in drawn)
    said += [f"Lines: moving mean over {span} neighbouring points; faint: the points."] if span > 1 else []
    missing = sum(len(curve.loss) for curve in training.curves) - sum(map(len, losses))
    said += [f"Left out, without a number: {count(missing)} {'step' if missing == 1 else 'steps'}."] if missing else []
    if any(loss > CLIPPED for known in losses for loss in known):
        said.append(f"Losses above {CLIPPED:.2f} are drawn at {CLIPPED:.2f}.")
    return said
