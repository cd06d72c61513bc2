"""How a checkpoint was trained, in words, rows and pictures, for a terminal, a page and a model card alike."""

import math
from collections.abc import Callable

from sinkctl.report.curves import HIGHEST, MOST_POINTS, Line, lines
from sinkctl.report.measured import sink_name
from sinkctl.report.picture import LinePicture, points, with_points
from sinkctl.result.convert import CONTROL, CONVERTED, Probe, Training, TrainingCurve
from sinkctl.result.numbers import count, duration, figures, quantity, short_count
from sinkctl.result.stream import CurvePoint, PolicyScore

STEP = "training step"
CLIPPED = math.log(HIGHEST)
TRAINED = {
    "new": "the mechanism alone",
    "attention": "the mechanism and the attention projections",
    "all": "every weight",
    "lora": "the mechanism, and low-rank updates of the attention projections, merged at the end",
}


def training_line(training: Training) -> str:
    """trained: 400 steps of 32 × 512 tokens (6.55M) in 3 min 20 s, 32,768 tok/s, bfloat16; attention: …"""
    seconds = _seconds(training, CONVERTED)
    took = "" if seconds is None else f" in {duration(seconds)}"
    speed = quantity(training.tokens_per_second, "tok/s")
    control = "" if training.trained == "new" else f"; {'with' if has_control(training) else 'without'} a control"
    return (
        f"trained: {steps_words(training)}{took}, {speed}, {training.precision}; attention: {training.attention}"
        f"{control}"
    )


def steps_words(training: Training) -> str:
    """400 steps of 32 × 512 tokens (6.55M)."""
    tokens = short_count(training.steps * training.batch * training.length)
    steps = f"{count(training.steps)} {'step' if training.steps == 1 else 'steps'}"
    return f"{steps} of {count(training.batch)} × {count(training.length)} tokens ({tokens})"


def trained_words(training: Training, mechanism: str) -> str:
    """What of the weights was trained: every weight."""
    words = TRAINED.get(training.trained, training.trained)
    if mechanism != "none":
        return words
    return (
        "nothing"
        if training.trained == "new"
        else words.removeprefix("the mechanism").lstrip(", ").removeprefix("and ")
    )


def text_words(training: Training) -> str:
    """books.txt (41,000,000 tokens, gone through once)."""
    if not math.isfinite(training.epochs):
        return f"{training.text} ({count(training.text_tokens)} tokens)"
    times = "once" if f"{training.epochs:.3g}" == "1" else f"{training.epochs:.3g} times"
    return f"{training.text} ({count(training.text_tokens)} tokens, gone through {times})"


def has_control(training: Training) -> bool:
    """Whether a control was trained beside it."""
    return any(curve.checkpoint == CONTROL for curve in training.curves)


def training_facts(training: Training, mechanism: str) -> list[list[str]]:
    """How it was trained, as rows of a table."""
    window = "all past tokens" if training.window is None else f"the last {count(training.window)} tokens and itself"
    facts = [
        ["steps", steps_words(training)],
        ["text", text_words(training)],
        ["a query sees", window],
        ["trained", f"{trained_words(training, mechanism)} ({count(training.trained_parameters)} parameters)"],
        ["optimizer", f"{training.optimizer}, learning rate {training.lr:g}"],
        ["precision", training.precision],
        ["attention", training.attention],
        ["processes", count(training.processes)],
        ["speed", quantity(training.tokens_per_second, "tok/s")],
    ]
    for curve in training.curves:
        if math.isfinite(curve.seconds):
            facts.append([f"time, {curve.checkpoint}", duration(curve.seconds)])
    control = "the same steps, data and seed without the mechanism" if has_control(training) else "none was trained"
    control = "the original: without the mechanism there is nothing to train" if training.trained == "new" else control
    return [*facts, ["control", control]]


def loss_lines(training: Training) -> list[Line]:
    """The loss of each run against its steps, as the curves of streams are drawn: a moving mean over what it joins."""
    return lines([_curve(curve) for curve in training.curves])


def loss_picture(training: Training) -> LinePicture | None:
    """All runs in one picture, means over what was measured; None without a number."""
    drawn = loss_lines(training)
    values = [dot.y for line in drawn for dot in (*line.dots, *line.measured)]
    if not values:
        return None
    low, high = min(values), max(values)
    pad = max(0.05 * (high - low), 0.01)
    ends = "; ".join(f"{x.label}: from {figures(x.dots[0].y)} to {figures(x.dots[-1].y)}" for x in drawn if x.dots)
    lines, faint = ({line.label: [tuple(dot) for dot in of(line)] for line in drawn if of(line)}
                    for of in (lambda line: line.dots, lambda line: line.measured))  # fmt: skip
    said = " ".join([f"{ends}.", *_loss_captions(training, drawn)])
    return LinePicture("training-loss", "Training loss", STEP, "loss (nats a token)", lines, wide=True, caption=said,
                       y_range=(max(0.0, low - pad), high + pad), faint=faint)  # fmt: skip


def _loss_captions(training: Training, drawn: list[Line]) -> list[str]:
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


def probe_pictures(training: Training) -> list[LinePicture]:
    """What the checkpoints showed against their training steps; pictures without a number are left out."""
    losses = [probe.loss for probe in training.probes if probe.loss is not None and math.isfinite(probe.loss)]
    loss_range = (min(losses), max(losses)) if losses else None
    first, mechanism = sink_name(0), "Sink*"
    pictures = [
        _against_steps(
            training,
            ("probe-sinks", "Sinks", "% of heads"),
            {first: lambda probe: probe.sink_percent, mechanism: lambda probe: probe.mechanism_percent},
            y_range=(0.0, 100.0),
            caption=f"{first}: heads whose α of the first token exceeds 0.3; {mechanism}: heads whose mechanism takes "
            "more than that.",
        ),
        _against_steps(
            training,
            ("probe-mass", "Attention that the mechanism takes", "mean attention"),
            {"": lambda probe: probe.mechanism_mass},
            y_range=(0.0, 1.0),
            caption="Mean over heads and queries; of gates, 1 − the mean gate.",
        ),
        _against_steps(
            training,
            ("probe-loss", "Held-out loss", "nats a token"),
            {"": lambda probe: probe.loss},
            y_range=loss_range,
            caption="Next-token loss of held-out samples.",
        ),
        _against_steps(
            training,
            ("probe-massive", "Largest activation", "|h| (log scale)"),
            {"": lambda probe: probe.massive},
            log_y=True,
            caption="Residual stream, a mean over samples, the largest layer.",
        ),
        _against_steps(
            training,
            ("probe-kurtosis", "Kurtosis of the activations", "kurtosis (log scale)"),
            {"": lambda probe: probe.kurtosis},
            log_y=True,
            caption="A mean over samples, the largest layer.",
        ),
    ]
    return [picture for picture in pictures if picture is not None]


def _against_steps(
    training: Training, words: tuple[str, str, str], read: dict[str, Callable[[Probe], float | None]], **settings
) -> LinePicture | None:
    """One line a checkpoint and number."""
    name, title, y_title = words
    drawn = {}
    for checkpoint in dict.fromkeys(probe.checkpoint for probe in training.probes):
        probes = [probe for probe in training.probes if probe.checkpoint == checkpoint]
        for label, number in read.items():
            values = points((probe.step for probe in probes), map(number, probes), log_y=settings.get("log_y", False))
            drawn[f"{checkpoint} {label}".rstrip()] = values
    return with_points(LinePicture(name, title, STEP, y_title, drawn, **settings))


def _curve(curve: TrainingCurve) -> PolicyScore:
    """A run as the curves of streams know it; a point is a step, counted from 1, and all steps weigh the same."""
    steps = [CurvePoint(first=step, end=step, nll=loss, tokens=1) for step, loss in enumerate(curve.loss, 1)]
    return PolicyScore(
        label=curve.checkpoint, kind="training", settings={}, tokens=len(steps), perplexity=None,
        common_perplexity=None, common_tokens=0, cache_tokens=None, cache_bytes=0, curve=steps,
    )  # fmt: skip


def _seconds(training: Training, checkpoint: str) -> float | None:
    seconds = next((curve.seconds for curve in training.curves if curve.checkpoint == checkpoint), math.nan)
    return seconds if math.isfinite(seconds) else None
