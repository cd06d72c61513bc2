"""What a conversion says in words and rows, on a terminal, on a page and in a model card alike."""

from collections.abc import Sequence

from sinkctl.report.bars import Bars, bars
from sinkctl.report.measured import columns_of, sink_name, spread, without_empty
from sinkctl.report.summary import ScoreTable
from sinkctl.result.convert import (
    CONTROL,
    CONVERTED,
    ORIGINAL,
    START,
    TEXTS_OWN,
    Calibration,
    CheckpointLine,
    ConvertDetail,
    RoundedLine,
    StreamedLine,
)
from sinkctl.result.numbers import (
    NOTHING,
    count,
    difference,
    error,
    figures,
    known,
    memory,
    percent,
    perplexity,
    points,
    share,
    short_count,
    times,
)

MASS = "the mechanism's mass"
CONSTANT = 0.01  # of their size: keys and values that vary less are one vector
REFUSABLE = ("sdpa", "flex_attention")
KINDS = {
    "sink_logit": "a sink logit: the softmax of each query head has one more outcome, of logit s and value 0, so "
    "weights are e^score / (e^s + Σ e^score)",
    "softmax1": "softmax off by one: weights are e^score / (1 + Σ e^score), so a head may attend to nothing",
    "sink_token": "a sink token: {token} stands in front of every text, for heads to attend to",
    "key_bias": "a key bias: each key/value head has one more key, of value 0, which faces every query before its "
    "rotation",
    "kv_bias": "a KV bias: each key/value head has one more key, with a value, which faces every query before its "
    "rotation",
    "value_bias": "a value bias, a control: a constant is added to what each head gives, and takes no attention",
    "score_bias": "a score bias: a number b of the head is added to the score of a sequence's first token",
    "gate": "a gate: {place} times σ(W x), x the layer's input, one number a {part}",
    "sigmoid": "sigmoid attention: weights are σ(score + b), b of the head, not normalised",
    "elu": "ELU attention: weights are elu(score + b) + 1, b of the head, not normalised",
    "softpick": "softpick: weights are relu(e^s − 1) / Σ |e^s − 1|, s the score plus a number b of the head",
    "clipped_softmax": "clipped softmax: weights are (1 − γ)·softmax + γ, cut to 0 … 1, γ ≤ 0 of the head, so small "
    "ones become 0",
    "normaliser": "another normaliser: weights are α e^s / (Σ e^(p s))^(1/p)",
    "sigsoftmax": "SigSoftmax: weights are e^s σ(s) / Σ e^s σ(s)",
    "kernel": "a kernel: weights are φ(q)·φ(k)",
    "fixed_kv_bias": "a KV bias of a fixed value: each key/value head has one more key, which learns, and its value, "
    "which does not",
    "alibi": "ALiBi: scores fall with the distance, each head's by its own slope",
    "positions": "added positions: the first layer gets a vector a position",
    "none": "no mechanism: it is a control",
}
GATED = {"output": "what each head gives", "value": "the values", "input": "what a layer attends with"}


def mechanism_words(detail: ConvertDetail) -> str:
    """a sink logit: …, the formula in words; its bare name where it has none here."""
    settings = detail.settings
    place, headwise = settings.get("place", "output"), settings.get("form", "headwise") == "headwise"
    part = ("token" if place == "input" else "head") if headwise else "channel"
    parts = dict(token=settings.get("token", "a token"), place=GATED.get(place, place), part=part)
    words = KINDS[detail.mechanism].format(**parts) if detail.mechanism in KINDS else detail.mechanism
    if (mix := settings.get("mix", 1.0)) != 1:
        words += f"; {mix:g} of that is mixed with {1 - mix:g} of the softmax"
    layers = [] if detail.calibration is None else detail.calibration.layers
    begun = {name for layer in layers for name in layer.begun}
    if "lost_key" in begun:
        words += ", and constants on keys, values and outputs hold more of the first token"
    elif detail.mechanism != "value_bias" and "bias" in begun:
        words += ", and a constant is added to what each head gives"
    return words


def stream_table(detail: ConvertDetail) -> ScoreTable:
    """One row a checkpoint and cache: perplexity, and its difference to the best of the original's.

    Where there is no original, to the best of the control's.
    """
    compared = CONTROL if detail.from_scratch else ORIGINAL
    base = min((line.perplexity for line in _of(detail.streams, compared) if known(line.perplexity)), default=None)
    columns = ["checkpoint", "cache", "in front", "perplexity", f"to the best {compared}"]
    rows = [
        [line.checkpoint, line.policy, line.first, perplexity(line.perplexity), difference(line.perplexity, base)]
        for line in detail.streams
    ]
    legend = [
        f"{count(detail.held_out)} held-out tokens, scored once the cache is full; cache S+W: the first S and the last "
        "W tokens"
    ]
    table = ScoreTable(columns, rows, set(), legend if rows else [], frozenset({0, 1, 2}))
    return table if base is not None else columns_of(table, [0, 1, 2, 3])


def rounded_table(detail: ConvertDetail, narrow: bool = False) -> ScoreTable:
    """One row a checkpoint, cache and what stays in full: what keys and values in so many bits cost it.

    `narrow`: without standard errors and the perplexity in full, which the table of streams has.
    """
    formats = list(dict.fromkeys(line.bits for line in detail.rounded))
    full = {(line.checkpoint, line.policy): line.perplexity for line in detail.streams}
    found: dict[tuple[str, str, str], dict[int | str, RoundedLine]] = {}
    for line in detail.rounded:
        found.setdefault((line.checkpoint, line.policy, line.keep), {})[line.bits] = line
    rows = [
        [checkpoint, policy, "nothing" if keep == "none" else "the first token", perplexity(full[checkpoint, policy])]
        + [_rounded_cost(by_bits.get(bits), narrow) for bits in formats]
        for (checkpoint, policy, keep), by_bits in found.items()
    ]
    columns = ["checkpoint", "cache", "kept in full", "perplexity in full"]
    columns += [bits if isinstance(bits, str) else f"{bits} bits" for bits in formats]
    groups = ", ".join(map(str, dict.fromkeys(line.group for line in detail.rounded)))
    legend = [
        f"keys and values in few bits, in groups of {groups}, none of them recent: rise of perplexity beside the same "
        "stream in full" + ("" if narrow else "; ±: standard error")
    ]
    table = ScoreTable(columns, rows, set(), legend if rows else [], frozenset({0, 1, 2}))
    return columns_of(table, [x for x in range(len(columns)) if x != 3]) if narrow else table


def _rounded_cost(line: RoundedLine | None, narrow: bool) -> str:
    """+1.4 % ± 0.3; from ten times on 1,750×."""
    if line is None or line.cost is None:
        return NOTHING
    said = difference(1 + line.cost, 1.0)
    return said if narrow or line.error is None or line.cost >= 9 else f"{said} ± {points(line.error)}"


def checkpoint_table(detail: ConvertDetail, as_rows: bool = False) -> ScoreTable:
    """Checkpoints as their tokenizers feed them, and the original bare, as columns or rows; metrics that any has."""
    lines = detail.checkpoints
    metrics = {
        "perplexity": lambda line: perplexity(line.perplexity),
        "KL from the original, nats": lambda line: figures(line.kl),
        sink_name(0): lambda line: percent(line.sink_percent),
        "largest α₁": lambda line: share(line.alpha_max),
        MASS: lambda line: share(line.mechanism_mass),
        "largest |h|": lambda line: figures(line.massive),
        "largest |h| / median": lambda line: times(line.massive_ratio, 1.0),
        "massive layers": _massive_layers,
        "kurtosis": lambda line: figures(line.kurtosis),
    }
    rows = [[name, *map(read, lines)] for name, read in metrics.items()]
    rows = [["in front", *(line.first for line in lines)], *(row for row in rows if set(row[1:]) != {NOTHING})]
    legend = [
        f"perplexity, KL: {count(detail.scored)} tokens, the second halves of samples; "
        f"{sink_name(0)}: heads whose α of the first token exceeds 0.3; |h|: activations"
    ]
    if any(row[0] == MASS for row in rows):
        legend.append(f"{MASS}: {'1 − the mean gate' if detail.mechanism == 'gate' else 'mean attention it takes'}")
    rows = [["", *(line.checkpoint for line in lines)], *rows]
    if as_rows:
        rows = [["checkpoint", *rows[0][1:]], *rows[1:]]
        rows = [list(row) for row in zip(*rows, strict=True)]
    words = frozenset({0, 1} if as_rows else {0})
    return ScoreTable(rows[0], rows[1:] if lines else [], set(), legend if lines else [], words)


def start_table(calibration: Calibration, most: int | None = None) -> ScoreTable:
    """One row a layer, at most `most` of them: what the first token took, and what stands in its place."""
    layers = calibration.layers if most is None else spread(calibration.layers, most)
    names = list(dict.fromkeys(name for layer in calibration.layers for name in layer.begun))
    rows = [
        [str(layer.number), share(layer.mass), figures(layer.score), figures(layer.lse)]
        + [figures(layer.begun.get(name)) for name in names]
        for layer in layers
    ]
    legend = [
        "mass, score: of the first token; lse: log-sum-exp of the other keys' scores; all means"
        + (f"; {', '.join(names)}: what the layer begins with, a mean, or vectors' root mean square" if names else "")
    ]
    if len(layers) < len(calibration.layers):
        legend.append(f"{len(layers)} of {count(len(calibration.layers))} layers, evenly chosen")
    return without_empty(ScoreTable(["layer", "mass", "score", "lse", *names], rows, set(), legend, frozenset()))


def calibration_lines(calibration: Calibration) -> list[str]:
    """How much text it was, and how constant the first token's keys and values were."""
    keys, values = calibration.key_spread, calibration.value_spread
    said = (
        f"{count(calibration.tokens)} tokens in {count(calibration.samples)} samples, for a cache of the first token "
        f"and the last {count(calibration.window)}."
    )
    if max(keys, values) <= CONSTANT:
        apart = f" to {error(keys)} and {error(values)} of their size" if max(keys, values) else ""
        constancy = f"The first token's keys and values are the same in every sample{apart}: constants replace them."
    else:
        constancy = (
            f"The first token's keys vary by {percent(100 * keys)} of their size over samples, its values by "
            f"{percent(100 * values)} (the worst layer): constants replace them only on average."
        )
    return [said, constancy]


def stored_line(detail: ConvertDetail) -> str:
    """Where the mechanism is, how large it is, and how the checkpoint is loaded."""
    size = f"{short_count(detail.parameters)} new parameters, " if detail.parameters > 0 else ""
    files = f"{memory(sum(detail.files.values()))} in {len(detail.files)} files" if detail.files else "no files"
    return f"stored as {detail.model_type} ({detail.stored}), {size}{files}; {loading_words(detail)}"


def loading_words(detail: ConvertDetail) -> str:
    """loads with transformers alone; runs with eager, flex_attention, not with sdpa."""
    how = "with trust_remote_code=True, or once sinkctl is imported" if detail.own_code else "with transformers alone"
    refused = f", not with {', '.join(refusing(detail))}" if refusing(detail) else ""
    return f"loads {how}; runs with {', '.join(detail.attention)}{refused}"


def refusing(detail: ConvertDetail) -> list[str]:
    """Values of attn_implementation that transformers refuses for the checkpoint."""
    # Stock classes differ in what they do with flash attention: nothing is said of it unless the code rules it out.
    own = ("flash_attention_2",) if detail.own_code and detail.mechanism != "gate" else ()
    return [name for name in (*REFUSABLE, *own) if name not in detail.attention]


def stream_policy(detail: ConvertDetail) -> str:
    """The cache the checkpoint is made for: 0+256, or with its first token kept, 1+255."""
    ours = _of(detail.streams, CONVERTED)
    if ours:
        kept = [line for line in ours if line.policy.startswith("1+") and not line.first.startswith(TEXTS_OWN)]
        return (kept or [line for line in ours if line.policy.startswith("0+")] or ours)[0].policy
    gone = detail.settings.get("start") in ("match", "mean") or detail.settings.get("bos") == "drop"
    return f"0+{detail.window}" if gone and detail.mechanism != "sink_token" else f"1+{detail.window - 1}"


def stream_bars(detail: ConvertDetail) -> Bars | None:
    """Perplexity a checkpoint and cache; the start of random weights would leave the other bars no room."""
    shown = [line for line in detail.streams if line.checkpoint != START or not detail.from_scratch]
    named = [
        f"{line.checkpoint} {line.policy}" + ("" if line.first.startswith(TEXTS_OWN) else f" ({line.first})")
        for line in shown
    ]
    colours = [{ORIGINAL: 0, CONTROL: 2}.get(line.checkpoint, 1) for line in shown]
    values = [line.perplexity for line in shown]
    return bars("Perplexity of the held-out text, streamed", zip(named, values, colours, strict=True))


def converted_facts(detail: ConvertDetail) -> list[list[str]]:
    """How it was converted, as rows of a table."""
    settings = [f"{name}: {value}" for name, value in detail.settings.items()]
    return [
        ["mechanism", ", ".join([detail.mechanism, *settings])],
        ["stored", f"{detail.model_type}, {detail.stored}"],
        ["in transformers", loading_words(detail)],
        ["weights", detail.dtype],
        ["new parameters", f"{count(detail.parameters)}, {detail.sink_dtype} as loaded"],
        ["in front of texts", detail.bos],
        ["cache", f"{count(detail.window)} tokens"],
        ["streamed", f"{count(detail.held_out)} tokens scored"],
        ["samples", f"{count(detail.scored)} tokens scored"],
    ]


def _of(streams: Sequence[StreamedLine], checkpoint: str) -> list[StreamedLine]:
    return [line for line in streams if line.checkpoint == checkpoint]


def _massive_layers(line: CheckpointLine) -> str:
    return NOTHING if line.massive_layers is None else count(line.massive_layers)
