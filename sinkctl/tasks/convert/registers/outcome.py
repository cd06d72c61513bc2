"""Registers → measurements, and what they say in words."""

from sinkctl.result.convert import CONTROL, CONVERTED, ORIGINAL
from sinkctl.result.numbers import count, figures, percent, share
from sinkctl.result.registers import RANDOM, RegisterLine, RegistersDetail
from sinkctl.result.schema import Measurement

# What `--fail-on` can name: name → (field, unit, better).
MEASURED = {
    "outlier_patches": ("outlier_percent", "% of patches", "lower"),
    "patch_max": ("patch_max", "norm", "lower"),
    "smoothness": ("smoothness", "cosine", "higher"),
    "cosine": ("cosine", "cosine", "higher"),
    "kl": ("kl", "nats", "lower"),
    "knn": ("knn", "% of digits", "higher"),
    "linear_probe": ("linear", "% of digits", "higher"),
}


def measurements_of(detail: RegistersDetail, seconds: float) -> list[Measurement]:
    """Of the converted checkpoint, and what the original has of it."""
    found = []
    for checkpoint, prefix in ((CONVERTED, ""), (ORIGINAL, "original.")):
        line = line_of(detail, checkpoint)
        for name, (field, unit, better) in MEASURED.items():
            value = None if line is None else getattr(line, field)
            if value is not None:
                found.append(Measurement(name=f"{prefix}{name}", samples=[value], unit=unit, better=better))
    return [*found, Measurement(name="convert.seconds", samples=[seconds], unit="s", better="lower")]


def line_of(detail: RegistersDetail, checkpoint: str) -> RegisterLine | None:
    return next((line for line in detail.lines if line.checkpoint == checkpoint), None)


def verdict_of(detail: RegistersDetail) -> list[str]:
    """What was moved, what that did, and what moving other neurons does."""
    if detail.training is not None:
        return _learned(detail)
    neurons, layers = len(detail.neurons), sorted({neuron.layer for neuron in detail.neurons})
    many = f"{count(neurons)} neuron{'s' * (neurons > 1)} of layer{'s' * (len(layers) > 1)}"
    moved = (
        f"{many} {', '.join(map(str, layers))} moved to {detail.registers} added token{'s' * (detail.registers > 1)}"
    )
    before, now, other = (line_of(detail, name) for name in (ORIGINAL, CONVERTED, RANDOM))
    if before is None or now is None:
        return [f"{moved}; nothing was compared."]
    said = [
        f"{moved}: outlier patches (norm above {figures(detail.threshold)}) {percent(before.outlier_percent)} before, "
        f"{percent(now.outlier_percent)} after; largest patch norm {figures(before.patch_max)}, then "
        f"{figures(now.patch_max)}; smoothness {share(before.smoothness)}, then {share(now.smoothness)}."
    ]
    if before.outliers == 0:
        said.append("The images it is judged by have no outliers, so this says only what it costs.")
    if now.cls_registers is not None:
        said.append(
            f"[CLS] gave the outliers {percent(100 * before.cls_outliers)} of its attention in the last layer; the "
            f"same patches now get {percent(100 * now.cls_outliers)}, the registers {percent(100 * now.cls_registers)}."
        )
    said.append(f"Features of the other patches are {share(now.cosine)} like the original's, a mean cosine.")
    said += _digits(detail.digits, before, now, other)
    if other is not None:
        said.append(
            f"As many other neurons of these layers, moved as a control, leave {percent(other.outlier_percent)}."
        )
    return said


def _digits(asked: int, before: RegisterLine, now: RegisterLine, other: RegisterLine | None) -> list[str]:
    """Labelled digits told apart, where any were shown; a share of n has a standard error of √(p(1−p)/n)."""
    if before.knn is None:
        return []
    said = []
    for name, field in (("neighbours", "knn"), ("a linear probe", "linear")):
        was, then, beside = (None if line is None else getattr(line, field) for line in (before, now, other))
        control = "" if other is None else f" ({other.checkpoint}: {percent(beside)})"
        said.append(f"by {name} {percent(was)} before, {percent(then)} after{control}")
    sure = f"standard error up to {50 / asked**0.5:.1f} points"
    return [f"Of {count(asked)} digits [CLS] names rightly {'; '.join(said)}; {sure}."]


def _learned(detail: RegistersDetail) -> list[str]:
    training, tokens = detail.training, f"{detail.registers} register{'s' * (detail.registers > 1)}"
    said = [
        f"{tokens}, trained for {count(training.steps)} step{'s' * (training.steps > 1)} of {count(training.batch)} "
        f"images: loss {figures(training.loss[0])} in the first, {figures(training.loss[-1])} in the last."
    ]
    before, now, control = (line_of(detail, name) for name in (ORIGINAL, CONVERTED, CONTROL))
    if before is None or now is None:
        return [*said, "Nothing was compared."]
    then = "" if control is None else f", {percent(control.outlier_percent)} in the control"
    said.append(
        f"Outlier patches (norm above {figures(detail.threshold)}): {percent(before.outlier_percent)} before, "
        f"{percent(now.outlier_percent)} after{then}; cosine of the other patches to the original {share(now.cosine)}."
    )
    said += _digits(detail.digits, before, now, control)
    if control is None:
        said.append("There is no control: this does not show that the registers made a difference.")
    elif control.outlier_percent <= now.outlier_percent:
        said.append("The control, trained just so without registers, has no more outliers: the training did it.")
    return said
