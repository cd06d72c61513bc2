"""What a conversion says in words and rows, on a terminal, on a page and in a model card alike."""

from sinkctl.report import parts
from sinkctl.report.measured import sink_name
from sinkctl.report.parts import Part, Section, Table, columns_of, of, table_of, without_empty
from sinkctl.report.trained import loss_picture, probe_pictures, training_facts, training_line
from sinkctl.result import convert
from sinkctl.result import numbers as say
from sinkctl.result.convert import CONTROL, CONVERTED, ORIGINAL, Calibration, ConvertDetail
from sinkctl.result.numbers import NOTHING, count, figures, known, perplexity, share

MASS = "the mechanism's mass"
ROUNDED = "Keys and values in few bits"
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


def stream_table(detail: ConvertDetail) -> Table:
    """One row a checkpoint and cache: perplexity, and its difference to the best of the original's.

    Where there is no original, to the best of the control's.
    """
    compared = CONTROL if detail.from_scratch else ORIGINAL
    base = min((line.perplexity for line in streams_of(detail, compared) if known(line.perplexity)), default=None)
    columns = {"checkpoint": of("checkpoint"), "cache": of("policy"), "in front": of("first")}
    columns |= {"perplexity": of("perplexity", perplexity)}
    if base is not None:
        columns[f"to the best {compared}"] = lambda line: say.difference(line.perplexity, base)
    table = table_of(
        detail.streams,
        columns,
        f"{count(detail.held_out)} held-out tokens, scored once the cache is full; cache S+W: the first S and the last "
        "W tokens",
        words=["checkpoint", "cache", "in front"],
    )
    # Numbers first: what is in front can be told from the cache.
    return table._replace(narrow=columns_of(table, [0, 1, *range(3, len(columns)), 2]))


def rounded_table(detail: ConvertDetail) -> Table:
    """One row a checkpoint, cache and what stays in full: what keys and values in so many bits cost it.

    Its narrow form is without standard errors and the perplexity in full, which the table of streams has.
    """
    full = {(line.checkpoint, line.policy): line.perplexity for line in detail.streams}
    found: dict[tuple[str, str, str], dict[int | str, convert.RoundedLine]] = {}
    for line in detail.rounded:
        found.setdefault((line.checkpoint, line.policy, line.keep), {})[line.bits] = line
    groups = ", ".join(map(str, dict.fromkeys(line.group for line in detail.rounded)))
    legend = f"keys and values in few bits, in groups of {groups}, none of them recent: rise of perplexity beside the "
    legend += "same stream in full"
    names = {
        "checkpoint": lambda row: row[0][0],
        "cache": lambda row: row[0][1],
        "kept in full": lambda row: "nothing" if row[0][2] == "none" else "the first token",
    }
    in_full = {"perplexity in full": lambda row: perplexity(full[row[0][:2]])}

    def costs(errors: bool) -> dict:
        return {
            bits if isinstance(bits, str) else f"{bits} bits": lambda row, bits=bits: _cost(row[1].get(bits), errors)
            for bits in dict.fromkeys(line.bits for line in detail.rounded)
        }

    narrow = table_of(found.items(), names | costs(False), legend, words=list(names))
    whole = table_of(found.items(), names | in_full | costs(True), f"{legend}; ±: standard error", words=list(names))
    return whole._replace(narrow=narrow)


def _cost(line: convert.RoundedLine | None, errors: bool) -> str:
    """+1.4 % ± 0.3; from ten times on 1,750×."""
    if line is None or line.cost is None:
        return NOTHING
    said = say.difference(1 + line.cost, 1.0)
    return f"{said} ± {say.points(line.error)}" if errors and line.error is not None and line.cost < 9 else said


def checkpoint_table(detail: ConvertDetail) -> Table:
    """Checkpoints as their tokenizers feed them, and the original bare, as columns; metrics that any has."""
    metrics = {
        "checkpoint": of("checkpoint"), "in front": of("first"), "perplexity": of("perplexity", perplexity),
        "KL from the original, nats": of("kl", figures), sink_name(0): of("sink_percent", say.percent),
        "largest α₁": of("alpha_max", share), MASS: of("mechanism_mass", share),
        "largest |h|": of("massive_largest", figures), "largest |h|, mean of samples": of("massive", figures),
        "that / median": lambda line: say.times(line.massive_ratio, 1.0),
        "massive layers": lambda line: NOTHING if line.massive_layers is None else count(line.massive_layers),
        "kurtosis": of("kurtosis", figures),
    }  # fmt: skip
    table = table_of(
        detail.checkpoints,
        metrics,
        f"perplexity, KL: {count(detail.scored)} tokens, the second halves of samples; {sink_name(0)}: heads whose α "
        "of the first token exceeds 0.3; |h|: activations",
        any(known(line.mechanism_mass) for line in detail.checkpoints)
        and f"{MASS}: {'1 − the mean gate' if detail.mechanism == 'gate' else 'mean attention it takes'}",
        words=["checkpoint", "in front"],
    )
    table = without_empty(table)
    return parts.transposed(table)._replace(narrow=table) if table else table


def start_table(calibration: Calibration, most: int | None = None) -> Table:
    """One row a layer, at most `most` of them: what the first token took, and what stands in its place."""
    layers = calibration.layers if most is None else parts.spread(calibration.layers, most)
    names = list(dict.fromkeys(name for layer in calibration.layers for name in layer.begun))
    columns = {
        "layer": of("number"),
        "mass": of("mass", share),
        "score": of("score", figures),
        "lse": of("lse", figures),
    }
    columns |= {name: lambda layer, name=name: figures(layer.begun.get(name)) for name in names}
    begun = f"; {', '.join(names)}: what the layer begins with, a mean, or vectors' root mean square" if names else ""
    table = table_of(
        layers,
        columns,
        f"mass, score: of the first token; lse: log-sum-exp of the other keys' scores; all means{begun}",
        len(layers) < len(calibration.layers)
        and f"{len(layers)} of {count(len(calibration.layers))} layers, evenly chosen",
        words=[],
    )
    return without_empty(table)


def calibration_line(calibration: Calibration) -> str:
    """How much text it was, and how constant the first token's keys and values were."""
    keys, values = calibration.key_spread, calibration.value_spread
    said = (
        f"{count(calibration.tokens)} tokens in {count(calibration.samples)} samples, for a cache of the first token "
        f"and the last {count(calibration.window)}."
    )
    if max(keys, values) <= CONSTANT:
        apart = f" to {say.error(keys)} and {say.error(values)} of their size" if max(keys, values) else ""
        return f"{said} The first token's keys and values are the same in every sample{apart}: constants replace them."
    return (
        f"{said} The first token's keys vary by {say.part(keys)} of their size over samples, its values by "
        f"{say.part(values)} (the worst layer): constants replace them only on average."
    )


def stored_line(detail: ConvertDetail) -> str:
    """Where the mechanism is, how large it is, and how the checkpoint is loaded."""
    size = f"{say.short_count(detail.parameters)} new parameters, " if detail.parameters > 0 else ""
    files = f"{say.memory(sum(detail.files.values()))} in {len(detail.files)} files" if detail.files else "no files"
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
    if ours := streams_of(detail, CONVERTED):
        kept = [line for line in ours if line.policy.startswith("1+") and not line.first.startswith(convert.TEXTS_OWN)]
        return (kept or [line for line in ours if line.policy.startswith("0+")] or ours)[0].policy
    gone = detail.settings.get("start") in ("match", "mean") or detail.settings.get("bos") == "drop"
    return f"0+{detail.window}" if gone and detail.mechanism != "sink_token" else f"1+{detail.window - 1}"


def stream_bars(detail: ConvertDetail) -> parts.Bars | None:
    """Perplexity a checkpoint and cache; the start of random weights would leave the other bars no room."""
    rows = []
    for line in detail.streams:
        front = "" if line.first.startswith(convert.TEXTS_OWN) else f" ({line.first})"
        colour = {ORIGINAL: 0, CONTROL: 2}.get(line.checkpoint, 1)
        if line.checkpoint != convert.START or not detail.from_scratch:
            rows.append((f"{line.checkpoint} {line.policy}{front}", line.perplexity, colour))
    return parts.bars("Perplexity of the held-out text, streamed", rows)


def tables(detail: ConvertDetail) -> list[tuple[str, Table]]:
    """Titled tables of a terminal; the last of them says how it was trained, stored and is loaded."""
    lines = [] if detail.training is None else [training_line(detail.training)]
    made = Table([], [], legend=[*lines, stored_line(detail)])
    shown = [("Streams", stream_table(detail)), (ROUNDED, rounded_table(detail))]
    return [*shown, ("Checkpoints", checkpoint_table(detail)), ("", made)]


def sections(detail: ConvertDetail) -> list[Section]:
    """The same on a page, with pictures, training, calibration and files."""
    said = f"The checkpoint was given {mechanism_words(detail)}; {stored_line(detail)}."
    streams = stream_table(detail)
    streams = columns_of(streams, [0, *range(3, len(streams.columns)), 1, 2])  # a phone shows two columns
    training: list[Part] = []
    if detail.training is not None:
        losses, probes = parts.plots(loss_picture(detail.training)), parts.plots(*probe_pictures(detail.training))
        training = [("facts", training_facts(detail.training, detail.mechanism)), losses, probes]
    begun: list[Part] = []
    if detail.calibration is not None:
        begun = [("plain", [calibration_line(detail.calibration)]), ("table", start_table(detail.calibration))]
    return [
        Section("Streams", [("plain", [said]), ("table", streams), ("bars", stream_bars(detail))]),
        Section(ROUNDED, [("table", rounded_table(detail))]),
        Section("Checkpoints", [("table", checkpoint_table(detail))]),
        Section("Training", training),
        Section("Calibration", begun, fold=True),
        Section("Files", [("facts", [[name, say.memory(size)] for name, size in detail.files.items()])], fold=True),
    ]


def facts(detail: ConvertDetail) -> list[list[str]]:
    """How it was converted, as rows of a table."""
    settings = [f"{name}: {value}" for name, value in detail.settings.items()]
    return [
        ["mechanism", ", ".join([detail.mechanism, *settings])], ["stored", f"{detail.model_type}, {detail.stored}"],
        ["in transformers", loading_words(detail)], ["weights", detail.dtype],
        ["new parameters", f"{count(detail.parameters)}, {detail.sink_dtype} as loaded"],
        ["in front of texts", detail.bos], ["cache", f"{count(detail.window)} tokens"],
        ["streamed", f"{count(detail.held_out)} tokens scored"], ["samples", f"{count(detail.scored)} tokens scored"],
    ]  # fmt: skip


def streams_of(detail: ConvertDetail, checkpoint: str) -> list[convert.StreamedLine]:
    return [line for line in detail.streams if line.checkpoint == checkpoint]
