"""How a checkpoint was trained, in words, rows and pictures, for a terminal, a page and a model card alike."""

import math

from sinkctl.report.curves import HIGHEST, MOST_POINTS, Line, curve_picture, lines
from sinkctl.report.measured import sink_name
from sinkctl.report.parts import LinePicture, line_picture
from sinkctl.result.convert import CONTROL, CONVERTED, Training, TrainingCurve
from sinkctl.result.numbers import Number, count, duration, figures, known, quantity, short_count
from sinkctl.result.stream import CurvePoint, PolicyScore

CLIPPED = math.log(HIGHEST)
TRAINED = {
    "new": "the mechanism alone",
    "attention": "the mechanism and the attention projections",
    "all": "every weight",
    "lora": "the mechanism, and low-rank updates of the attention projections, merged at the end",
}


def training_line(training: Training) -> str:
    """trained: 400 steps of 32 × 512 tokens (6.55M) in 3 min 20 s, 32,768 tok/s, bfloat16; attention: …"""
    took = [c.seconds for c in training.curves if c.checkpoint == CONVERTED and math.isfinite(c.seconds)]
    seconds = f" in {duration(took[0])}" if took else ""
    speed = quantity(training.tokens_per_second, "tok/s")
    control = "" if training.trained == "new" else f"; {'with' if has_control(training) else 'without'} a control"
    rounded = f"; {training.rounded}" if training.rounded else ""
    words = f"{speed}, {training.precision}; attention: {training.attention}{rounded}{control}"
    return f"trained: {steps_words(training)}{seconds}, {words}"


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
    others = words.removeprefix("the mechanism").lstrip(", ").removeprefix("and ")
    return "nothing" if training.trained == "new" else others


def text_words(training: Training) -> str:
    """books.txt (41,000,000 tokens, gone through once)."""
    times = "once" if f"{training.epochs:.3g}" == "1" else f"{training.epochs:.3g} times"
    through = f", gone through {times}" if math.isfinite(training.epochs) else ""
    return f"{training.text} ({count(training.text_tokens)} tokens{through})"


def has_control(training: Training) -> bool:
    """Whether a control was trained beside it."""
    return any(curve.checkpoint == CONTROL for curve in training.curves)


def training_facts(training: Training, mechanism: str) -> list[list[str]]:
    """How it was trained, as rows of a table."""
    window = "all past tokens" if training.window is None else f"the last {count(training.window)} tokens and itself"
    control = "the same steps, data and seed without the mechanism" if has_control(training) else "none was trained"
    control = "the original: without the mechanism there is nothing to train" if training.trained == "new" else control
    window += f", as {training.rounded}" if training.rounded else ""
    return [
        ["steps", steps_words(training)], ["text", text_words(training)], ["a query sees", window],
        ["trained", f"{trained_words(training, mechanism)} ({count(training.trained_parameters)} parameters)"],
        ["optimizer", f"{training.optimizer}, learning rate {training.lr:g}"], ["precision", training.precision],
        ["attention", training.attention], ["processes", count(training.processes)],
        ["speed", quantity(training.tokens_per_second, "tok/s")],
        *([f"time, {c.checkpoint}", duration(c.seconds)] for c in training.curves if math.isfinite(c.seconds)),
        ["control", control],
    ]  # fmt: skip


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
    said = " ".join([f"{ends}.", *_loss_captions(training, drawn)])
    words = ("training-loss", "Training loss", "training step", "loss (nats a token)")
    return curve_picture(words, drawn, float, caption=said, y_range=(max(0.0, low - pad), high + pad))


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
    losses = [probe.loss for probe in training.probes if known(probe.loss)]
    first, log = sink_name(0), {"log_y": True}
    sinks = f"{first}: heads whose α of the first token exceeds 0.3; Sink*: heads whose mechanism takes more than that."
    mass = "Mean over heads and queries; of gates, 1 − the mean gate."
    massive = "Residual stream, a mean over samples, the largest layer."
    kinds: list[tuple[str, str, str, dict[str, str], str, dict]] = [
        ("sinks", "Sinks", "% of heads", {first: "sink_percent", "Sink*": "mechanism_percent"}, sinks,
         {"y_range": (0.0, 100.0)}),
        ("mass", "Attention that the mechanism takes", "mean attention", {"": "mechanism_mass"}, mass,
         {"y_range": (0.0, 1.0)}),
        ("loss", "Held-out loss", "nats a token", {"": "loss"}, "Next-token loss of held-out samples.",
         {"y_range": (min(losses), max(losses)) if losses else None}),
        ("massive", "Largest activation", "|h| (log scale)", {"": "massive"}, massive, log),
        ("kurtosis", "Kurtosis of the activations", "kurtosis (log scale)", {"": "kurtosis"},
         "A mean over samples, the largest layer.", log),
    ]  # fmt: skip
    names = dict.fromkeys(probe.checkpoint for probe in training.probes)
    pictures = [
        line_picture(
            f"probe-{name}", title, "training step", y_title,
            {f"{of} {label}".rstrip(): _steps(training, of, field) for of in names for label, field in fields.items()},
            caption=caption, **settings,
        )
        for name, title, y_title, fields, caption, settings in kinds
    ]  # fmt: skip
    return [picture for picture in pictures if picture is not None]


def _steps(training: Training, checkpoint: str, field: str) -> list[tuple[int, Number]]:
    return [(probe.step, getattr(probe, field)) for probe in training.probes if probe.checkpoint == checkpoint]


def _curve(curve: TrainingCurve) -> PolicyScore:
    """A run as the curves of streams know it; a point is a step, counted from 1, and all steps weigh the same."""
    steps = [CurvePoint(first=step, end=step, nll=loss, tokens=1) for step, loss in enumerate(curve.loss, 1)]
    return PolicyScore(
        label=curve.checkpoint, kind="training", settings={}, tokens=len(steps), perplexity=None,
        common_perplexity=None, common_tokens=0, cache_tokens=None, cache_bytes=0, curve=steps,
    )  # fmt: skip
