"""What a sink measurement says in words and rows, on a terminal and on a page alike."""

from collections.abc import Iterable

from sinkctl.report.summary import ScoreTable
from sinkctl.result.measure import (
    LATER,
    SCORED,
    CheckpointScore,
    CostLine,
    InputScore,
    MeasureDetail,
    PatchNorms,
    SinkShare,
    TakenOver,
)
from sinkctl.result.numbers import (
    NOTHING,
    count,
    difference,
    error,
    figures,
    percent,
    perplexity,
    place,
    points,
    quotient,
    share,
)
from sinkctl.result.words import quoted, ranges

CLASSES = {
    "sink": "sink-dominated",
    "local": "local",
    "diffuse": "diffuse",
    "retrieval": "retrieval-like",
    "mixed": "mixed",
}
KEYS_SHOWN = 4
TOKENS_SHOWN = 6
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
COUNTED = "Tokens count from 1; layers, heads, experts, channels and positions from 0."


def rate_table(detail: MeasureDetail) -> ScoreTable:
    """One row a checkpoint and input: Sink_k^ε of the first keys, the largest α₁, the mass balance and the sample."""
    several = len(detail.checkpoints) > 1
    shown = _shown_shares(detail)
    names = [sink_name(key, epsilon if len(detail.epsilons) > 1 else None) for epsilon, key in shown]
    columns = [*(["checkpoint"] if several else []), "input", *names]
    columns += ["largest α₁", "balance error", "samples × length"]
    rows = []
    for checkpoint in detail.checkpoints:
        for score in checkpoint.inputs:
            if score.heads is None:
                continue
            rows.append(
                [
                    *([checkpoint.label] if several else []),
                    score.name,
                    *(_rate(score, epsilon, key) for epsilon, key in shown),
                    share(score.alpha_max),
                    error(score.balance_error),
                    f"{count(score.samples)} × {count(score.length)}",
                ]
            )
    epsilon = f"{detail.epsilons[0]:g}" if len(detail.epsilons) == 1 else "ε"
    legend = [
        f"Sinkₖ: heads whose α of token k exceeds {epsilon}, mean over samples, layers and heads; α: what a token "
        "receives from it and all later ones, a mean. Longer samples give lower rates: compare equal lengths. "
        "±: standard error over the samples."
    ]
    return ScoreTable(columns, rows, set(), legend if rows else [], frozenset(range(2 if several else 1)))


def _rate(score: InputScore, epsilon: float, key: int) -> str:
    """75.7 % ± 0.4, its standard error over the samples where that is known."""
    found = _sink_share(score, epsilon, key)
    said = percent(None if found is None else found.percent)
    return said if found is None or found.error is None else f"{said} ± {found.error:.1f}"


def found_table(score: InputScore, most: int | None = None) -> ScoreTable:
    """Tokens other than the first that heads sink on, in their order; with `most`, the first of them."""
    columns = ["token", "heads", "α", "times / places", "position", "layer.head"]
    rows = [
        [
            quoted(found.token),
            percent(found.percent),
            share(found.alpha),
            f"{count(found.times)}/{count(found.occurrences)}",
            place(found.position),
            ".".join(map(str, found.strongest)),
        ]
        for found in score.found[:most]
    ]
    legend = []
    if most is not None and len(score.found) > most:
        legend.append(f"and {count(len(score.found) - most)} more")
    return ScoreTable(columns, rows, set(), legend)


def cost_table(checkpoint: CheckpointScore) -> ScoreTable:
    """What was taken away, and what that did to perplexity and to the last token's distribution."""
    columns = ["taken away", "cost", "perplexity", "baseline", "KL, nats", "top-5 kept", "how"]
    rows = [
        [
            line.name,
            cost_said(line),
            perplexity(line.perplexity),
            perplexity(line.baseline),
            figures(line.kl),
            share(line.top5),
            line.what,
        ]
        for line in checkpoint.costs
    ]
    legend = []
    if any(line.error is not None for line in checkpoint.costs):
        legend.append(
            "cost: rise of perplexity; ±: standard error, over samples (of a stream: quarters of its window)."
        )
    if any(line.hidden_from for line in checkpoint.costs):
        legend.append(
            f"Hidden from {LATER}, a key leaves another one time to take its place; from {SCORED} (second halves) it "
            "is missing once it is needed. Where nothing is said: from the scored."
        )
    legend += [taken_over_line(line.taken_over) for line in checkpoint.costs if line.taken_over is not None]
    return without_empty(ScoreTable(columns, rows, set(), legend if rows else [], frozenset({0, 6})))


def cost_said(line: CostLine) -> str:
    """+154.0 % ± 9.1; from ten times on 1,750×."""
    said, ratio = difference(line.perplexity, line.baseline), quotient(line.perplexity, line.baseline)
    return said if line.error is None or ratio is None or ratio >= 10 else f"{said} ± {points(line.error)}"


def taken_over_line(found: TakenOver) -> str:
    """Which key heads sink on when the first is hidden from the beginning."""
    where = "" if found.layer is None else f"; from layer {found.layer} on, half of those that sank on the first"
    token = "" if found.token is None else f" {quoted(found.token)}"
    return (
        f"With the first key hidden from {LATER}, token {place(found.place + 1)}{token} gains most: "
        f"{percent(found.percent)} of heads sink on it, {percent(found.before)} before{where}."
    )


def mixing_lines(checkpoint: CheckpointScore) -> list[str]:
    """How much of one swapped token the last block shows, a line a way of running."""
    return [
        f"one token swapped, {line.name}: the last block's output changes by {figures(line.change[-1])} of its size"
        for line in checkpoint.mixing
        if line.change
    ]


def expert_table(score: InputScore) -> ScoreTable:
    """Mixture-of-experts layers: where the first token goes, and how many of the others go there too."""
    rows = [
        [
            str(layer.number),
            str(layer.first_token_expert),
            percent(_hundredfold(layer.first_token_share)),
            percent(_hundredfold(layer.expert_share)),
        ]
        for layer in score.layers
        if layer.first_token_expert is not None
    ]
    return ScoreTable(["layer", "expert", "of first tokens", "of other tokens"], rows, set(), [], frozenset())


def class_counts(score: InputScore) -> dict[str, int]:
    """Heads by class, in a fixed order, under the names that reports use; classes without heads are left out."""
    named: dict[str, int] = {}
    for name, heads in score.classes.items():
        named[class_name(name)] = named.get(class_name(name), 0) + heads
    return {name: named[name] for name in in_order(name for name, heads in named.items() if heads)}


def in_order(classes: Iterable[str]) -> list[str]:
    """Names of head classes in the order of reports; those it does not know come last."""
    given = set(classes)
    return [name for name in CLASSES.values() if name in given] + sorted(given - set(CLASSES.values()))


def class_line(score: InputScore) -> str:
    """24 sink-dominated, 8 local."""
    return ", ".join(f"{count(heads)} {name}" for name, heads in class_counts(score).items())


def class_name(name: str) -> str:
    """The full name of a head class, from its short one or itself."""
    return CLASSES.get(name, name)


def patch_line(patches: PatchNorms) -> str:
    """Norms after the last block: CLS 45.1; registers 30.2, 28.1; patches: median 12.3, largest 160, 2.4 % above 9."""
    said = [] if patches.cls is None else [f"CLS {figures(patches.cls)}"]
    if patches.registers:
        said.append(f"registers {', '.join(map(figures, patches.registers))}")
    said.append(
        f"patches: median {figures(patches.patch_median)}, largest {figures(patches.patch_max)}, "
        f"{percent(patches.outlier_percent)} above {figures(patches.threshold)}"
    )
    return "Norms after the last block: " + "; ".join(said)


def input_line(score: InputScore) -> str:
    """100 samples × 64 tokens, beginning “<s>”, “The”."""
    tokens = ", ".join(map(quoted, score.first_tokens[:TOKENS_SHOWN]))
    begins = f", beginning {tokens}" if tokens else ""
    return f"{count(score.samples)} samples × {count(score.length)} tokens{begins}"


def massive_line(score: InputScore) -> str:
    """Massive activations in 28 of 32 layers: 1–27; nothing where none was looked for."""
    if all(layer.massive is None for layer in score.layers):
        return ""
    if not score.massive_layers:
        return "No massive activations"
    return (
        f"Massive activations in {count(len(score.massive_layers))} of {count(len(score.layers))} layers: "
        f"{ranges(score.massive_layers)}"
    )


def sink_name(key: int, epsilon: float | None = None) -> str:
    """Sink₁, or Sink₁ ε=0.5."""
    name = f"Sink{str(key + 1).translate(SUBSCRIPTS)}"
    return name if epsilon is None else f"{name} ε={epsilon:g}"


def sink_percent(score: InputScore, epsilon: float, key: int = 0) -> float | None:
    """Sink_{key+1}^ε of an input, in percent."""
    found = _sink_share(score, epsilon, key)
    return None if found is None else found.percent


def _sink_share(score: InputScore, epsilon: float, key: int) -> SinkShare | None:
    return next((share for share in score.sinks if (share.epsilon, share.key) == (epsilon, key)), None)


def without_empty(table: ScoreTable) -> ScoreTable:
    """`table` without the columns that show nothing in any row; the first stays."""
    kept = [x for x in range(len(table.columns)) if not x or any(row[x] not in ("", NOTHING) for row in table.rows)]
    return columns_of(table, kept)


def columns_of(table: ScoreTable, kept: list[int]) -> ScoreTable:
    """`table` with these columns, in this order."""
    rows = [[row[x] for x in kept] for row in table.rows]
    words = frozenset(new for new, old in enumerate(kept) if old in table.words)
    best = {(y, kept.index(x)) for y, x in table.best if x in kept}
    return ScoreTable([table.columns[x] for x in kept], rows, best, table.legend, words)


def spread(items: list, most: int) -> list:
    """At most `most` of the items, the first and the last among them."""
    if len(items) <= most:
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _shown_shares(detail: MeasureDetail) -> list[tuple[float, int]]:
    """(ε, key): the first keys at the first ε, then the first key at every other."""
    scores = [score for checkpoint in detail.checkpoints for score in checkpoint.inputs]
    keys = sorted({sink.key for score in scores for sink in score.sinks if sink.key < detail.keys})[:KEYS_SHOWN]
    return [(detail.epsilons[0], key) for key in keys] + [(epsilon, 0) for epsilon in detail.epsilons[1:]]


def _hundredfold(value: float | None) -> float | None:
    return None if value is None else 100 * value
