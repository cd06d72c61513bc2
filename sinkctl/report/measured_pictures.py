"""What a sink measurement draws, before anything draws it: lines by layer, by query, by block and by training step."""

from collections.abc import Callable
from operator import attrgetter

from sinkctl.report.measured import input_named, sink_name, sink_percent
from sinkctl.report.parts import LinePicture, line_picture, spread
from sinkctl.report.printable import shorten
from sinkctl.result.measure import CheckpointScore, InputScore, LayerScore, MeasureDetail, PatchNorms
from sinkctl.result.numbers import Number, figures, known
from sinkctl.result.words import quoted

Read = Callable[[LayerScore], Number]
MOST_LINES, TOKEN_CELLS = 6, 10
NORMS = {"residual": ("the residual stream", "norm"), "keys": ("the keys", "key"), "values": ("the values", "value")}


def input_pictures(score: InputScore, epsilon: float) -> list[LinePicture]:
    """Everything drawn as lines for one input; pictures without a number are left out."""
    strength = {
        f"α₁ > {epsilon:g}": lambda layer: None if layer.sink_percent is None else layer.sink_percent / 100,
        "α₁ mean": attrgetter("alpha"),
        "α₁ max": attrgetter("alpha_max"),
    }
    said = f"Share of heads whose α₁ exceeds {epsilon:g}; mean and largest α₁ of the heads."
    largest = {f"top-{place + 1}": _top(place) for place in range(3)} | {"median": _massive(attrgetter("median"))}
    pictures = [
        _by_layer(score, "layers", "Sink strength by layer", "share of heads, or of attention", strength, said,
                  y_range=(0.0, 1.0)),
        _queries(score),
        _by_layer(score, "massive", "Largest activations by layer", "|h| (log scale)", largest,
                  "Residual stream after each layer, means over samples.", log_y=True),
        *(
            _by_layer(score, f"norms-{name}", f"Norm of {what}", "norm (log scale)",
                      {"first token": attrgetter(f"{field}_first"), "others": attrgetter(f"{field}_rest")},
                      "The first token, and the mean of the others.", log_y=True)
            for name, (what, field) in NORMS.items()
        ),
        _by_layer(score, "entropy", "Attention entropy by layer", "entropy (nats)", {"entropy": attrgetter("entropy")},
                  "Mean over queries, heads and samples."),
        None if score.patches is None else _patches(score.patches),
    ]  # fmt: skip
    return [picture for picture in pictures if picture is not None]


def mixing_picture(checkpoint: CheckpointScore) -> LinePicture | None:
    """How far one swapped token spreads, by block."""
    lines = {line.name: enumerate(line.change) for line in checkpoint.mixing}
    caption = "One token is swapped; relative change of the residual stream after each block."
    words = ("mixing", "How far one token spreads", "block", "relative change (log scale)")
    return line_picture(*words, lines, log_y=True, caption=caption)


def _patches(patches: PatchNorms) -> LinePicture | None:
    """Histogram of patch norms as an outline; empty bins lie on the floor."""
    outline = [(edge, max(0.5, float(n))) for low, high, n in patches.bins for edge in (low, high)]
    caption = f"Patches above {figures(patches.threshold)} count as outliers. Empty bins are drawn at 0.5."
    guides = ((patches.threshold, f"threshold {figures(patches.threshold)}"),) if known(patches.threshold) else ()
    words = ("patches", "Norms of patches after the last block", "norm", "patches (log scale)")
    return line_picture(*words, {"patches": outline}, log_y=True, guides=guides, caption=caption)


def emergence(detail: MeasureDetail) -> LinePicture | None:
    """Sink₁ of every input against the training step, where three checkpoints or more have one."""
    steps = [checkpoint.step for checkpoint in detail.checkpoints]
    if len(steps) < 3 or None in steps:
        return None
    ordered = sorted(detail.checkpoints, key=lambda checkpoint: checkpoint.step)
    positive = [step for step in steps if step > 0]
    log = bool(positive) and max(positive) > 100 * min(positive)
    start = min(positive) / 2 if log else 0  # where a logarithmic axis shows step 0
    epsilon = detail.epsilons[0]
    lines = {
        name: [(at.step or start, sink_percent(input_named(at, name), epsilon)) for at in ordered]
        for name in dict.fromkeys(score.name for checkpoint in ordered for score in checkpoint.inputs)
    }
    caption = f"Heads whose α₁ exceeds {epsilon:g}." + " Step 0 is drawn at the left edge." * (log and 0 in steps)
    words = ("emergence", "Emergence of the sink", f"training step{' (log scale)' * log}", f"{sink_name(0)} (%)")
    return line_picture(*words, lines, log_x=log, y_range=(0.0, 100.0), caption=caption)


def compared_pictures(detail: MeasureDetail) -> list[LinePicture | None]:
    """A line a checkpoint, of the first input: sink strength and the largest activation by layer."""
    whole = [(checkpoint.label, checkpoint.inputs[0]) for checkpoint in detail.checkpoints if checkpoint.inputs]
    firsts = spread(whole, MOST_LINES)
    if len(firsts) < 2:
        return []
    caption = f"Input: {firsts[0][1].name}."
    if len(firsts) < len(whole):
        caption += f" {len(firsts)} of {len(whole)} checkpoints, evenly chosen."
    alpha, top = ({label: _line(score, read) for label, score in firsts} for read in (attrgetter("alpha"), _top(0)))
    massive = ("compared-massive", "Largest activation by layer", "layer", "top-1 |h| (log scale)", top)
    return [
        line_picture("compared-alpha", "α₁ by layer", "layer", "mean α₁", alpha, y_range=(0.0, 1.0), caption=caption),
        line_picture(*massive, log_y=True, caption=caption),
    ]


def key_name(score: InputScore, key: int) -> str:
    """token 1 “<s>”, where every sample begins so; else token 1."""
    shared = key < min(score.shared_tokens, len(score.first_tokens))
    text = f" {quoted(shorten(score.first_tokens[key], TOKEN_CELLS))}" if shared else ""
    return f"token {key + 1}{text}"


def _by_layer(
    score: InputScore, name: str, title: str, y_title: str, lines: dict[str, Read], caption: str, **settings
) -> LinePicture | None:
    drawn = {label: _line(score, read) for label, read in lines.items()}
    return line_picture(name, title, "layer", y_title, drawn, caption=caption, **settings)


def _line(score: InputScore, read: Read) -> list[tuple[int, Number]]:
    return [(layer.number, read(layer)) for layer in score.layers]


def _queries(score: InputScore) -> LinePicture | None:
    """Each stretch of queries in its middle, counted from 1, as the axis is logarithmic."""
    keys = range(min(MOST_LINES, max((len(point.mass) for point in score.queries), default=0)))
    lines = {
        f"token {key + 1}": [((p.first + 1 + p.end) / 2, p.mass[key]) for p in score.queries if key < len(p.mass)]
        for key in keys
    }
    words = ("queries", "Attention to the first tokens", "query, counted from 1 (log scale)", "attention")
    return line_picture(*words, lines, log_x=True, y_range=(0.0, 1.0), caption="Mean over layers and heads.")


def _massive(read: Callable) -> Read:
    return lambda layer: None if layer.massive is None else read(layer.massive)


def _top(place: int) -> Read:
    return _massive(lambda massive: massive.top[place])
