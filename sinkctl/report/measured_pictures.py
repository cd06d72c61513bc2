"""What a sink measurement draws, before anything draws it: lines by layer, by query, by block and by training step."""

from collections.abc import Callable

from sinkctl.report.measured import sink_name, sink_percent, spread
from sinkctl.report.picture import LinePicture, points, with_points
from sinkctl.report.printable import shorten
from sinkctl.result.measure import CheckpointScore, InputScore, LayerScore, MeasureDetail, PatchNorms
from sinkctl.result.numbers import figures, known
from sinkctl.result.words import quoted

Read = Callable[[LayerScore], float | None]
MOST_LINES, TOKEN_CELLS = 6, 10
FIRST, REST = "first token", "others"
LAYER = "layer"


def input_pictures(score: InputScore, epsilon: float) -> list[LinePicture]:
    """Everything drawn as lines for one input; pictures without a number are left out."""
    pictures = [
        _by_layer(
            score,
            ("layers", "Sink strength by layer", "share of heads, or of attention"),
            {
                f"α₁ > {epsilon:g}": lambda layer: _hundredth(layer.sink_percent),
                "α₁ mean": lambda layer: layer.alpha,
                "α₁ max": lambda layer: layer.alpha_max,
            },
            y_range=(0.0, 1.0),
            caption=f"Share of heads whose α₁ exceeds {epsilon:g}; mean and largest α₁ of the heads.",
        ),
        _queries(score),
        _by_layer(
            score,
            ("massive", "Largest activations by layer", "|h| (log scale)"),
            {"top-1": _top(0), "top-2": _top(1), "top-3": _top(2), "median": _median},
            log_y=True,
            caption="Residual stream after each layer, means over samples.",
        ),
        _norms(score, "residual", "Norm of the residual stream", "norm_first", "norm_rest"),
        _norms(score, "keys", "Norm of the keys", "key_first", "key_rest"),
        _norms(score, "values", "Norm of the values", "value_first", "value_rest"),
        _by_layer(
            score,
            ("entropy", "Attention entropy by layer", "entropy (nats)"),
            {"entropy": lambda layer: layer.entropy},
            caption="Mean over queries, heads and samples.",
        ),
        None if score.patches is None else patch_picture(score.patches),
    ]
    return [picture for picture in pictures if picture is not None]


def overall_pictures(detail: MeasureDetail) -> list[LinePicture]:
    """What is drawn of several checkpoints together."""
    grown = emergence(detail)
    return [*([] if grown is None else [grown]), *compared_pictures(detail)]


def checkpoint_pictures(checkpoint: CheckpointScore) -> list[LinePicture]:
    """How far one swapped token spreads, by block."""
    lines = {line.name: points(range(len(line.change)), line.change, log_y=True) for line in checkpoint.mixing}
    caption = "One token is swapped; relative change of the residual stream after each block."
    title = "How far one token spreads"
    y_title = "relative change (log scale)"
    mixing = with_points(LinePicture("mixing", title, "block", y_title, lines, log_y=True, caption=caption))
    return [] if mixing is None else [mixing]


def patch_picture(patches: PatchNorms) -> LinePicture | None:
    """Histogram of patch norms as an outline; empty bins lie on the floor."""
    outline = [(edge, max(0.5, float(n))) for low, high, n in patches.bins for edge in (low, high)]
    caption = f"Patches above {figures(patches.threshold)} count as outliers. Empty bins are drawn at 0.5."
    guides = ((patches.threshold, f"threshold {figures(patches.threshold)}"),) if known(patches.threshold) else ()
    words = ("patches", "Norms of patches after the last block", "norm", "patches (log scale)")
    return with_points(LinePicture(*words, {"patches": outline}, log_y=True, guides=guides, caption=caption))


def emergence(detail: MeasureDetail) -> LinePicture | None:
    """Sink₁ of every input against the training step, where three checkpoints or more have one."""
    steps = [checkpoint.step for checkpoint in detail.checkpoints]
    if len(steps) < 3 or None in steps:
        return None
    ordered = sorted(detail.checkpoints, key=lambda checkpoint: checkpoint.step)
    positive = [step for step in steps if step > 0]
    log = bool(positive) and max(positive) > 100 * min(positive)
    start = min(positive) / 2 if log else 0  # where a logarithmic axis shows step 0
    epsilon, lines = detail.epsilons[0], {}
    for name in dict.fromkeys(score.name for checkpoint in ordered for score in checkpoint.inputs):
        rates = [_rate(checkpoint, name, epsilon) for checkpoint in ordered]
        lines[name] = points((checkpoint.step or start for checkpoint in ordered), rates)
    caption = f"Heads whose α₁ exceeds {epsilon:g}."
    if log and 0 in steps:
        caption += " Step 0 is drawn at the left edge."
    x_title = f"training step{' (log scale)' if log else ''}"
    title, y_title = "Emergence of the sink", f"{sink_name(0)} (%)"
    return with_points(
        LinePicture("emergence", title, x_title, y_title, lines, log, y_range=(0.0, 100.0), caption=caption)
    )


def compared_pictures(detail: MeasureDetail) -> list[LinePicture]:
    """A line a checkpoint, of the first input: sink strength and the largest activation by layer."""
    whole = [(checkpoint.label, checkpoint.inputs[0]) for checkpoint in detail.checkpoints if checkpoint.inputs]
    firsts = spread(whole, MOST_LINES)
    if len(firsts) < 2:
        return []
    kinds: list[tuple[str, str, str, Read, bool]] = [
        ("compared-alpha", "α₁ by layer", "mean α₁", lambda layer: layer.alpha, False),
        ("compared-massive", "Largest activation by layer", "top-1 |h| (log scale)", _top(0), True),
    ]
    pictures = []
    for name, title, y_title, read, log in kinds:
        lines = {label: _line(score, read, log) for label, score in firsts}
        y_range = None if log else (0.0, 1.0)
        caption = f"Input: {firsts[0][1].name}."
        if len(firsts) < len(whole):
            caption += f" {len(firsts)} of {len(whole)} checkpoints, evenly chosen."
        pictures.append(
            with_points(LinePicture(name, title, LAYER, y_title, lines, False, log, y_range, caption=caption))
        )
    return [picture for picture in pictures if picture is not None]


def key_name(score: InputScore, key: int) -> str:
    """token 1 “<s>”, where every sample begins so; else token 1."""
    shared = key < min(score.shared_tokens, len(score.first_tokens))
    text = f" {quoted(shorten(score.first_tokens[key], TOKEN_CELLS))}" if shared else ""
    return f"token {key + 1}{text}"


def _by_layer(score: InputScore, words: tuple[str, str, str], lines: dict[str, Read], **settings) -> LinePicture | None:
    name, title, y_title = words
    drawn = {label: _line(score, read, settings.get("log_y", False)) for label, read in lines.items()}
    return with_points(LinePicture(name, title, LAYER, y_title, drawn, **settings))


def _line(score: InputScore, read: Read, log: bool) -> list[tuple[float, float]]:
    return points((layer.number for layer in score.layers), map(read, score.layers), log_y=log)


def _norms(score: InputScore, name: str, title: str, first: str, rest: str) -> LinePicture | None:
    lines = {FIRST: lambda layer: getattr(layer, first), REST: lambda layer: getattr(layer, rest)}
    caption = "The first token, and the mean of the others."
    return _by_layer(score, (f"norms-{name}", title, "norm (log scale)"), lines, log_y=True, caption=caption)


def _queries(score: InputScore) -> LinePicture | None:
    middles = [(point.first + 1 + point.end) / 2 for point in score.queries]  # from 1: the axis is logarithmic
    keys = range(min(MOST_LINES, max((len(point.mass) for point in score.queries), default=0)))
    lines = {
        f"token {key + 1}": points(middles, (p.mass[key] if key < len(p.mass) else None for p in score.queries))
        for key in keys
    }
    caption = "Mean over layers and heads."
    title, x_title = "Attention to the first tokens", "query, counted from 1 (log scale)"
    return with_points(
        LinePicture("queries", title, x_title, "attention", lines, log_x=True, y_range=(0.0, 1.0), caption=caption)
    )


def _top(place: int) -> Read:
    return lambda layer: None if layer.massive is None else layer.massive.top[place]


def _median(layer: LayerScore) -> float | None:
    return None if layer.massive is None else layer.massive.median


def _rate(checkpoint: CheckpointScore, name: str, epsilon: float) -> float | None:
    score = next((score for score in checkpoint.inputs if score.name == name), None)
    return None if score is None else sink_percent(score, epsilon)


def _hundredth(value: float | None) -> float | None:
    return None if value is None else value / 100
