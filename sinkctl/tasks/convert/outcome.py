"""A conversion → its Result: measurements, and what they say in words."""

import math
from collections.abc import Sequence

from sinkctl.result.convert import (
    CONTROL,
    CONVERTED,
    ORIGINAL,
    START,
    CheckpointLine,
    ConvertDetail,
    StreamedLine,
    Training,
)
from sinkctl.result.numbers import change, percent, perplexity
from sinkctl.result.schema import Measurement
from sinkctl.tasks.convert.lines import fed, meant, streamed
from sinkctl.tasks.convert.rounded_words import rounded_costs, rounded_said
from sinkctl.tasks.convert.untrained import worse_than_nothing

NOTHING = 0.005  # a share of perplexity that is no difference
GAP = 0.02  # that the first token's absence must cost for a share of it to mean something
PART = 20  # one step in so many, 5 %, stands for the beginning or the end of training


def measurements_of(detail: ConvertDetail, seconds: float) -> list[Measurement]:
    """What `--fail-on` can name."""
    found = []

    def add(name: str, value: float | None, unit: str, better: str) -> None:
        if value is not None and math.isfinite(value):
            found.append(Measurement(name=name, samples=[value], unit=unit, better=better))

    add("perplexity", _perplexity(meant(detail.streams, CONVERTED)), "perplexity", "lower")
    for name, sinks in (("original.kept", "1+"), ("original.bare", "0+")):
        add(name, _perplexity(streamed(detail.streams, ORIGINAL, sinks)), "perplexity", "lower")
    for checkpoint in (START, CONTROL):
        add(f"{checkpoint}.perplexity", _perplexity(meant(detail.streams, checkpoint)), "perplexity", "lower")
    closed, beside = gap_closed(detail.streams), beside_control(detail.streams)
    add("gap_closed", None if closed is None else 100 * closed, "% of the gap", "higher")
    add("beside_control", None if beside is None else 100 * beside, "% of perplexity", "lower")
    for checkpoint, prefix in ((CONVERTED, ""), (ORIGINAL, "original."), (CONTROL, "control.")):
        line = fed(detail.checkpoints, checkpoint)
        if line is None:
            continue
        add(f"{prefix}kl", line.kl, "nats/token", "lower")
        add(f"{prefix}samples.perplexity", line.perplexity, "perplexity", "lower")
        add(f"{prefix}sink_rate", line.sink_percent, "% of heads", "neither")
        if checkpoint == CONVERTED:
            add("mechanism_mass", line.mechanism_mass, "mass", "neither")
            add("massive_max", line.massive_largest, "|h|", "lower")
        add(f"{prefix}kurtosis", line.kurtosis, "kurtosis", "lower")
    for name, cost in rounded_costs(detail):
        add(name, cost, "% of perplexity", "lower")
    if detail.training is not None:
        add("loss", losses(detail.training, CONVERTED)[1], "nats/token", "lower")
        add("control.loss", losses(detail.training, CONTROL)[1], "nats/token", "lower")
        add("train.tokens_per_s", detail.training.tokens_per_second, "tok/s", "higher")
    add("convert.seconds", seconds, "s", "lower")
    return found


def gap_closed(streams: Sequence[StreamedLine]) -> float | None:
    """Of what leaving the first token out costs, in perplexity, the share that the mechanism makes good."""
    kept, bare, now = (_perplexity(line) for line in _compared(streams))
    if None in (kept, bare, now) or meant(streams, CONVERTED).first != "nothing":
        return None  # where a token stays in front, none was replaced
    return (bare - now) / (bare - kept) if bare > kept * (1 + GAP) else None


def beside_control(streams: Sequence[StreamedLine]) -> float | None:
    """By which share the converted checkpoint's perplexity is above (+) or below (−) the control's."""
    now, control = (_perplexity(meant(streams, checkpoint)) for checkpoint in (CONVERTED, CONTROL))
    return None if now is None or control is None else now / control - 1


def losses(training: Training, checkpoint: str) -> tuple[float | None, float | None]:
    """Mean loss of the first and of the last 5 % of steps; None where there is no such number."""
    curve = next((curve for curve in training.curves if curve.checkpoint == checkpoint), None)
    if curve is None or not curve.loss:
        return None, None
    part = max(1, len(curve.loss) // PART)
    means = [sum(steps) / part for steps in (curve.loss[:part], curve.loss[-part:])]
    first, last = (mean if math.isfinite(mean) else None for mean in means)
    return first, last


def verdict_of(detail: ConvertDetail) -> list[str]:
    """What the conversion did, in at most four sentences; with its training and the control, in at most six.

    One more where keys and values were rounded.
    """
    if detail.training is None:
        return [*_streams(detail), *rounded_said(detail), *_sinks(detail), *_difference(detail)]
    said = [*_trained(detail, detail.training), *_harm(detail, detail.training), *_control(detail, detail.training)]
    return [*said, *_kept_tokens(detail), *rounded_said(detail), *_sinks(detail), *_difference(detail)]


def _compared(streams: Sequence[StreamedLine]) -> tuple[StreamedLine | None, ...]:
    """The original with its first token kept, without, and the converted checkpoint."""
    return streamed(streams, ORIGINAL, "1+"), streamed(streams, ORIGINAL, "0+"), meant(streams, CONVERTED)


def _perplexity(line: StreamedLine | CheckpointLine | None) -> float | None:
    found = None if line is None else line.perplexity
    return found if found is not None and math.isfinite(found) else None


def _kept_words(line: StreamedLine) -> str:
    return {"nothing": "without kept tokens", "BOS": "with its BOS kept"}.get(line.first, "with its sink token")


def _streams(detail: ConvertDetail) -> list[str]:
    now = meant(detail.streams, CONVERTED)
    before, without, after = (_perplexity(line) for line in _compared(detail.streams))
    if None in (before, without, after):
        return []
    said = (
        f"{detail.mechanism}: perplexity {perplexity(after)} {_kept_words(now)} ({now.policy}), streamed over "
        f"{detail.held_out:,} held-out tokens; the original {perplexity(before)} with its first token kept, "
        f"{perplexity(without)} without."
    )
    if now.first != "nothing":
        worse = after / before - 1
        ruined = (
            f", and perplexity is {percent(100 * worse)} above the original's: it needs training" if worse > GAP else ""
        )
        return [said, f"A token stays in front of every text, and is to be kept in a stream (1+W){ruined}."]
    closed = gap_closed(detail.streams)
    if closed is None:
        return [said, "The original hardly loses without its first token, so there was little to replace."]
    if closed <= 0 and after <= without * (1 + NOTHING):
        return [said, "That is no better than taking the first token away with nothing in its place."]
    if closed <= 0:
        return [said, worse_than_nothing(detail.mechanism, after, without)]
    made_good = f"{percent(100 * closed)} of" if closed < 1 else "all of"
    return [said, f"That makes good {made_good} what the first token's absence costs."]


def _trained(detail: ConvertDetail, training: Training) -> list[str]:
    """What it came to, from where; where nothing was streamed, the training loss."""
    given = "no mechanism" if detail.mechanism == "none" else detail.mechanism
    steps = "1 step" if training.steps == 1 else f"{training.steps:,} steps"
    said = f"{given}, trained for {steps}{' from random weights' if detail.from_scratch else ''}: "
    now, after = meant(detail.streams, CONVERTED), _perplexity(meant(detail.streams, CONVERTED))
    if after is None:
        first, last = losses(training, CONVERTED)
        control = losses(training, CONTROL)[1]
        also = "" if control is None else f"; the control ended at {control:.4g}"
        known = first is not None and last is not None
        return [f"{said}training loss {first:.4g} in the first steps, {last:.4g} in the last{also}."] if known else []
    said += f"perplexity {perplexity(after)} {_kept_words(now)} ({now.policy}) over {detail.held_out:,} held-out tokens"
    start = _perplexity(meant(detail.streams, START))
    said += "" if start is None or detail.from_scratch else f"; {perplexity(start)} before training"
    kept, bare, _ = (_perplexity(line) for line in _compared(detail.streams))
    said += "" if kept is None else f"; the original {perplexity(kept)} with its first token kept"
    said += "" if kept is None or bare is None else f", {perplexity(bare)} without"
    return [f"{said}."]


def _harm(detail: ConvertDetail, training: Training) -> list[str]:
    """Whether training broke down, or left held-out text worse than it found it."""
    lost = {}
    for curve in training.curves:
        step = next((step for step, loss in enumerate(curve.loss, 1) if not math.isfinite(loss)), None)
        lost |= {} if step is None else {curve.checkpoint: step}
    if lost:
        places = ", ".join(f"step {step:,} ({checkpoint})" for checkpoint, step in lost.items())
        return [f"Training broke down: the loss is not a number at {places}."]
    pair = _pair(detail, START)
    if pair is None or pair[0] <= pair[1] * (1 + NOTHING):
        return []
    now, start, where = pair
    first, last = losses(training, CONVERTED)
    fell = "" if None in (first, last) or last >= first else f", although its loss fell from {first:.4g} to {last:.4g}"
    return [
        f"Training made it worse: perplexity is {percent(100 * (now / start - 1))} above {perplexity(start)}, the "
        f"start's {where}{fell}."
    ]


def _control(detail: ConvertDetail, training: Training) -> list[str]:
    """What the same training did without the mechanism."""
    pair = _pair(detail, CONTROL)
    if pair is not None:
        return [_control_words(detail, *pair, training.trained == "new")]
    if detail.mechanism == "none":
        return ["Without a mechanism it is a control itself: it shows what training alone does."]
    if losses(training, CONTROL) == (None, None) and fed(detail.checkpoints, CONTROL) is None:
        return ["No control was trained: without one, this does not show that the mechanism made a difference."]
    if not detail.streams and not detail.checkpoints:
        return ["Nothing was measured on held-out text, so the mechanism is not compared with the control."]
    return ["The mechanism cannot be compared with the control: one of the two has no perplexity."]


def _control_words(detail: ConvertDetail, now: float, control: float, where: str, untrained: bool) -> str:
    how = "which has nothing to train without the mechanism" if untrained else "trained just so without the mechanism"
    apart, at = now / control - 1, f"{perplexity(control)} {where}"
    if apart > NOTHING:
        return f"The control, {how}, does better ({at}): the mechanism costs {percent(100 * apart)}."
    if apart < -NOTHING:
        return f"The control, {how}, does worse ({at}): perplexity is {percent(-100 * apart)} lower with the mechanism."
    start = _pair(detail, START)
    if untrained or detail.from_scratch:
        meaning = "the mechanism makes no difference to perplexity"
    elif start is not None and start[0] < start[1] * (1 - NOTHING):
        meaning = "the training, not the mechanism, made the difference"
    else:
        meaning = "training alone gets there too"
    return f"The control, {how}, does as well ({at}): {meaning}."


def _pair(detail: ConvertDetail, other: str) -> tuple[float, float, str] | None:
    """Perplexities of the converted checkpoint and another, and where: in streams, or else on samples."""
    theirs = meant(detail.streams, other)
    now, then = _perplexity(meant(detail.streams, CONVERTED)), _perplexity(theirs)
    if now is not None and then is not None:
        return now, then, f"at {theirs.policy}"
    now, then = (_perplexity(fed(detail.checkpoints, checkpoint)) for checkpoint in (CONVERTED, other))
    return None if now is None or then is None else (now, then, "on samples")


def _kept_tokens(detail: ConvertDetail) -> list[str]:
    """What tokens kept in front of a stream still buy."""
    now, more = meant(detail.streams, CONVERTED), streamed(detail.streams, CONVERTED, "4+")
    saved = _saved(detail.streams, CONVERTED)
    if now is None or _perplexity(now) is None:
        return []
    at = "" if saved is None else f"({more.policy}: {perplexity(more.perplexity)})"
    if now.first == "nothing":
        if saved is None:
            return []
        if saved > NOTHING:
            return [f"Tokens kept in front still buy it {percent(100 * saved)} {at}."]
        theirs, design = _saved(detail.streams, CONTROL), detail.mechanism != "none"
        if theirs is not None and theirs <= NOTHING:
            return [f"Kept tokens buy it nothing more {at}, nor the control."]
        return [f"Kept tokens buy it nothing more {at}{': it streams without them by design' if design else ''}."]
    bare = _perplexity(streamed(detail.streams, CONVERTED, "0+"))
    if bare is None:
        return [f"Its {now.first} is to be kept in a stream (1+W)."]
    needed = "is to be" if bare > now.perplexity * (1 + NOTHING) else "need not be"
    said = f"Its {now.first} {needed} kept in a stream: without it perplexity is {perplexity(bare)}"
    if saved is None:
        return [f"{said}."]
    return [f"{said}; more kept tokens buy it {percent(100 * saved) if saved > NOTHING else 'nothing'} {at}."]


def _saved(streams: Sequence[StreamedLine], checkpoint: str) -> float | None:
    """The share of perplexity that four kept tokens take away from a checkpoint as it is meant."""
    now, more = _perplexity(meant(streams, checkpoint)), _perplexity(streamed(streams, checkpoint, "4+"))
    return None if now is None or more is None else 1 - more / now


def _sinks(detail: ConvertDetail) -> list[str]:
    originals = [line for line in detail.checkpoints if line.checkpoint == ORIGINAL]
    before = originals[0] if originals else fed(detail.checkpoints, START)
    after, control = (fed(detail.checkpoints, checkpoint) for checkpoint in (CONVERTED, CONTROL))
    if before is None or after is None or before.sink_percent is None or after.sink_percent is None:
        return []
    taken = after.mechanism_mass
    also = "" if taken is None else f"; the mechanism takes {taken:.3f} of attention"
    rates = f"{percent(before.sink_percent)} before, {percent(after.sink_percent)} after"
    bare = originals[1].sink_percent if len(originals) > 1 and after.first == "nothing" else None
    rates += "" if bare is None else f" ({percent(bare)} of the original too, once nothing stands in front)"
    if control is not None and control.sink_percent is not None:
        rates += f", {percent(control.sink_percent)} in the control"
    return [f"Heads that sink on the first token: {rates}{also}."]


def _difference(detail: ConvertDetail) -> list[str]:
    before, after, control = (fed(detail.checkpoints, checkpoint) for checkpoint in (ORIGINAL, CONVERTED, CONTROL))
    now, then, theirs = _perplexity(after), _perplexity(before), _perplexity(control)
    if now is None or (before is not None and (then is None or after.kl is None)) or (before is None and not theirs):
        return []
    said = f"On samples: perplexity {perplexity(now)}"
    if then is not None:
        apart = now / then - 1
        same = "the same" if abs(apart) < NOTHING else change(apart)
        said += f" ({same} beside {perplexity(then)}), {after.kl:.2g} nats a token from the original"
    if theirs is not None:
        away = f", {control.kl:.2g} nats" if then is not None and control.kl is not None else ""
        said += f"; the control {perplexity(theirs)}{away}"
    return [f"{said}."]
