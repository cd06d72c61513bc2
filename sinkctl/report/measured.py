"""What a sink measurement says in words and tables, on a terminal and on a page alike."""

import math
from collections.abc import Iterable

from sinkctl.report.parts import Table, of, table_of, without_empty
from sinkctl.result import measure, numbers
from sinkctl.result.measure import LATER, SCORED, CheckpointScore, InputScore, MeasureDetail
from sinkctl.result.numbers import count, figures, part, percent, perplexity, place, quotient, share
from sinkctl.result.suspects import SuspectReport
from sinkctl.result.words import massive_layers, quoted, ranges

CLASSES = {
    "sink": "sink-dominated", "local": "local", "diffuse": "diffuse", "retrieval": "retrieval-like", "mixed": "mixed",
}  # fmt: skip
KEYS_SHOWN, TOKENS_SHOWN, SUSPECTS_SHOWN = 4, 6, 20
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
COUNTED = "Tokens count from 1; layers, heads, experts, channels and positions from 0."


def rate_table(detail: MeasureDetail) -> Table:
    """One row a checkpoint and input: Sink_k^ε of the first keys, the largest α₁, the mass balance and the sample."""
    pairs = [(checkpoint, score) for checkpoint in detail.checkpoints for score in checkpoint.inputs]
    keys = sorted({sink.key for _, score in pairs for sink in score.sinks if sink.key < detail.keys})[:KEYS_SHOWN]
    first, *others = detail.epsilons
    columns = {"checkpoint": lambda pair: pair[0].label} if len(detail.checkpoints) > 1 else {}
    columns["input"] = lambda pair: pair[1].name
    words = list(columns)
    for epsilon, key in [*((first, key) for key in keys), *((epsilon, 0) for epsilon in others)]:
        name = sink_name(key) + (f" ε={epsilon:g}" if others else "")
        columns[name] = lambda pair, epsilon=epsilon, key=key: _rate(pair[1], epsilon, key)
    columns |= {
        "largest α₁": lambda pair: share(pair[1].alpha_max),
        "balance error": lambda pair: numbers.error(pair[1].balance_error),
        "samples × length": lambda pair: f"{count(pair[1].samples)} × {count(pair[1].length)}",
    }
    return table_of(
        [pair for pair in pairs if pair[1].heads is not None],
        columns,
        f"Sinkₖ: heads whose α of token k exceeds {'ε' if others else f'{first:g}'}, mean over samples, layers and "
        "heads; α: what a token receives from it and all later ones, a mean. Longer samples give lower rates: compare "
        "equal lengths. ±: standard error over the samples.",
        words=words,
    )


def _rate(score: InputScore, epsilon: float, key: int) -> str:
    """75.7 % ± 0.4, its standard error over the samples where that is known."""
    found = sink_share(score, epsilon, key)
    said = percent(None if found is None else found.percent)
    return said if found is None or found.error is None else f"{said} ± {found.error:.1f}"


def found_table(score: InputScore, most: int | None = None) -> Table:
    """Tokens other than the first that heads sink on, in their order; with `most`, the first of them."""
    columns = {
        "token": of("token", quoted), "heads": of("percent", percent), "α": of("alpha", share),
        "times / places": lambda found: f"{count(found.times)}/{count(found.occurrences)}",
        "position": of("position", place), "layer.head": lambda found: ".".join(map(str, found.strongest)),
    }  # fmt: skip
    return table_of(score.found[:most], columns, _more(score.found, most))


def predicted_table(score: InputScore, most: int | None = None) -> Table:
    """Tokens told by massive activations, at most `most`, and how often heads sink on them; empty where none is."""
    columns = {
        "token": lambda token: "the first token" if token.token is None else quoted(token.token),
        "places": of("predicted", count), "sinks of later layers": of("right", count),
        "position": of("position", place),
    }  # fmt: skip
    if (found := score.predicted) is None:
        return table_of([], columns)
    kept = "--kv-keep predicted keeps them"
    if found.keep != "none":
        others = f" but {count(found.left)} of them, --kv-keep predicted those too" if found.left else " of them"
        kept = f"--kv-keep {found.keep} keeps all{others}"
    front = prefix(score)
    return table_of(
        found.tokens[:most],
        columns,
        f"places: massive in channel{'s' * (len(found.channels) > 1)} {ranges(found.channels)} after layer "
        f"{found.layer}; {kept}",
        f"{_agreement(found.all)}; besides the first token, {_agreement(found.besides_first)}",
        len(front) > bool(score.bos)
        and f"a prefix of as many tokens as samples have such places: {' '.join(map(quoted, front))}",
        _more(found.tokens, most),
    )


def prefix(score: InputScore) -> list[str]:
    """Tokens that in front of a text would be the massive ones, so that those in it need not be.

    After PrefixQuant (Chen et al. 2024, arXiv 2410.05265): as many as a sample has such places, rounded up; those told
    most often, BOS last where samples have it. As in its code, what fewer than a tenth of the samples have is left out.
    """
    found = score.predicted
    assert found is not None
    number = math.ceil(found.all.predicted / score.samples)
    often = [token.token for token in found.tokens if token.token is not None and 10 * token.predicted >= score.samples]
    return often[: number - 1] + (score.first_tokens[:1] if score.bos else [])


def _agreement(found: measure.Agreement) -> str:
    """precision 100.0 % (20 of 20), recall 19.6 % (20 of 102)."""
    right = count(found.right)
    precision = f"precision {percent(found.precision)} ({right} of {count(found.predicted)})"
    recall = f"recall {percent(found.recall)} ({right} of {count(found.sinks)})"
    return f"{precision if found.predicted else 'none predicted'}, {recall if found.sinks else 'no sinks'}"


def _more(items: list, most: int | None) -> str:
    return f"and {count(len(items) - most)} more" if most is not None and len(items) > most else ""


def cost_table(checkpoint: CheckpointScore) -> Table:
    """What was taken away, and what that did to perplexity and to the last token's distribution."""
    columns = {
        "taken away": of("name"), "cost": cost_said, "perplexity": of("perplexity", perplexity),
        "baseline": of("baseline", perplexity), "KL, nats": of("kl", figures), "top-5 kept": of("top5", share),
        "how": of("what"),
    }  # fmt: skip
    costs = checkpoint.costs
    table = table_of(
        costs,
        columns,
        any(line.error is not None for line in costs)
        and "cost: rise of perplexity; ±: standard error, over samples (of a stream: quarters of its window).",
        any(line.hidden_from for line in costs)
        and f"Hidden from {LATER}, a key leaves another one time to take its place; from {SCORED} (second halves) it "
        "is missing once it is needed. Where nothing is said: from the scored.",
        *(_taken_over(line.taken_over) for line in costs if line.taken_over is not None),
        words=["taken away", "how"],
    )
    return without_empty(table)


def cost_said(line: measure.CostLine) -> str:
    """+154.0 % ± 9.1; from ten times on 1,750×."""
    said, ratio = numbers.difference(line.perplexity, line.baseline), quotient(line.perplexity, line.baseline)
    return said if line.error is None or ratio is None or ratio >= 10 else f"{said} ± {numbers.points(line.error)}"


def _taken_over(found: measure.TakenOver) -> str:
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


def expert_table(score: InputScore) -> Table:
    """Mixture-of-experts layers: where the first token goes, and how many of the others go there too."""
    columns = {
        "layer": of("number"), "expert": of("first_token_expert"), "of first tokens": of("first_token_share", part),
        "of other tokens": of("expert_share", part),
    }  # fmt: skip
    return table_of([layer for layer in score.layers if layer.first_token_expert is not None], columns, words=[])


def suspect_table(report: SuspectReport | None) -> Table:
    """The most suspect trigger candidates, one a row."""
    columns = {
        "candidate": of("text", quoted), "alarm": lambda one: "ALARM" if one.alarm else "no",
        "score": of("score", figures), "limit": of("limit", figures), "z": of("z", "{:.1f}".format),
        "tokens": of("tokens", count), "sign": of("sign"),
    }  # fmt: skip
    if report is None:
        return table_of([], columns)
    less = report.candidates - SUSPECTS_SHOWN
    return table_of(
        report.suspects[:SUSPECTS_SHOWN],
        columns,
        f"put {report.place}, into {count(report.samples)} samples of {count(report.length)} tokens; score: root mean "
        f"square over layers of z-scores among {count(report.random)} random candidates of as many tokens, of the sign "
        f"where it is largest; alarm: above the largest of theirs, times {report.margin:g}; z: of the score",
        less > 0 and f"{count(less)} less suspect ones are in result.json",
        words=["candidate", "alarm", "sign"],
    )


def class_counts(score: InputScore) -> dict[str, int]:
    """Heads by class, in a fixed order, under the names that reports use; classes without heads are left out."""
    named: dict[str, int] = {}
    for name, heads in score.classes.items():
        named[CLASSES.get(name, name)] = named.get(CLASSES.get(name, name), 0) + heads
    return {name: named[name] for name in in_order(name for name, heads in named.items() if heads)}


def in_order(classes: Iterable[str]) -> list[str]:
    """Names of head classes in the order of reports; those it does not know come last."""
    given = set(classes)
    return [name for name in CLASSES.values() if name in given] + sorted(given - set(CLASSES.values()))


def class_line(score: InputScore) -> str:
    """24 sink-dominated, 8 local."""
    return ", ".join(f"{count(heads)} {name}" for name, heads in class_counts(score).items())


def patch_line(patches: measure.PatchNorms) -> str:
    """Norms after the last block: CLS 45.1; registers 30.2, 28.1; patches: median 12.3, largest 160, 2.4 % above 9."""
    said = [] if patches.cls is None else [f"CLS {figures(patches.cls)}"]
    said += [f"registers {', '.join(map(figures, patches.registers))}"] if patches.registers else []
    said.append(
        f"patches: median {figures(patches.patch_median)}, largest {figures(patches.patch_max)}, "
        f"{percent(patches.outlier_percent)} above {figures(patches.threshold)}"
    )
    return "Norms after the last block: " + "; ".join(said)


def input_lines(score: InputScore) -> list[str]:
    """100 samples × 64 tokens, beginning “<s>”, “The”; classes of heads; layers with massive activations."""
    tokens = ", ".join(map(quoted, score.first_tokens[:TOKENS_SHOWN]))
    said = [f"{count(score.samples)} samples × {count(score.length)} tokens{f', beginning {tokens}' if tokens else ''}"]
    said += [f"Heads: {heads}"] if (heads := class_line(score)) else []
    if any(layer.massive is not None for layer in score.layers):
        massive, layers = score.massive_layers, count(len(score.layers))
        found = f"Massive activations in {count(len(massive))} of {layers} layers: {massive_layers(score)}"
        said.append(found if massive else "No massive activations")
    return said


def sink_name(key: int) -> str:
    """Sink₁ for key 0."""
    return f"Sink{str(key + 1).translate(SUBSCRIPTS)}"


def sink_percent(score: InputScore | None, epsilon: float, key: int = 0) -> float | None:
    """Sink_{key+1}^ε of an input, in percent."""
    found = None if score is None else sink_share(score, epsilon, key)
    return None if found is None else found.percent


def sink_share(score: InputScore, epsilon: float, key: int) -> measure.SinkShare | None:
    """The same with its standard error."""
    return next((share for share in score.sinks if (share.epsilon, share.key) == (epsilon, key)), None)


def input_named(checkpoint: CheckpointScore, name: str) -> InputScore | None:
    """A checkpoint's input of that name."""
    return next((score for score in checkpoint.inputs if score.name == name), None)
