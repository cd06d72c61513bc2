"""What a measured checkpoint's numbers say, in words: whether it sinks, on what, what carries it, what to do."""

from collections.abc import Sequence

from sinkctl.result.measure import LATER, SCORED, CostLine, FoundSink, InputScore, LayerScore, TakenOver
from sinkctl.result.numbers import count, figures, percent, points
from sinkctl.result.words import quoted, ranges

NO_SINK, WEAK_SINK = 5.0, 20.0  # percent of heads
ELSEWHERE = 1.0  # percent of heads, mean over all places of a token, from which it is worth a word
DRAINED = 0.5  # of the others' norm
ENOUGH = 500  # tokens scored: fewer do not carry a comparison in words
NOTHING = 0.005  # a share of perplexity that is no cost
FREE = 0.02  # a perplexity that rises by less says that nothing was lost
HEAVY_TAILS = 1000.0  # kurtosis; BERT without clipping has 3,076, with clipped softmax 80 (arXiv 2306.12929)


def main_input(inputs: Sequence[InputScore]) -> InputScore:
    """The input that a checkpoint is judged by: text, with BOS where that was measured."""
    return min(inputs, key=lambda score: (score.kind not in ("natural", "images"), score.bos is False))


def verdict(kind: str, inputs: Sequence[InputScore], costs: Sequence[CostLine]) -> list[str]:
    """At most seven sentences about a decoder, encoder or vision model (`kind`)."""
    main = main_input(inputs)
    if main.heads is None:
        attended = any(layer.attends for layer in main.layers)
        nothing = [] if attended else ["No softmax attention was measured, so nothing is said of attention sinks."]
        return nothing + _carriers(main) + _cost(costs)
    if first_percent(main) is None:
        return ["Attention is not finite in this dtype: nothing can be said of sinks."]
    uniform = sum(1 / t for t in range(1, main.length + 1)) / main.length
    if kind == "decoder" and uniform >= main.sinks[0].epsilon:
        return [
            f"Samples of {main.length} tokens are too short to tell: attention spread evenly gives the first token "
            f"{uniform:.2f} already, more than {main.sinks[0].epsilon:g}."
        ]
    others = (s for s in inputs if s.kind == main.kind and s.bos is False and s is not main)
    other = next((s for s in others if first_percent(s) is not None), None)
    return [
        _strength(main, other), *_where(main), *_carriers(main), *_cost(costs), *_advice(kind, main, other, costs),
        *_kept(main),
    ]  # fmt: skip


def elsewhere(main: InputScore) -> list[FoundSink]:
    """Tokens besides the first that are sinks often enough to be worth a word, the most telling first."""
    often = [sink for sink in main.found if 20 * sink.times >= main.samples and sink.times > 1]
    return [sink for sink in often if sink.percent * sink.times >= ELSEWHERE * sink.occurrences]


def first_percent(score: InputScore) -> float | None:
    """Sink_1 at the first ε."""
    return score.sinks[0].percent


def rate_line(score: InputScore) -> tuple[str, ...]:
    """natural, BOS: 75.6 % ± 0.4 of heads sink on the first token; nothing where attention was not measured."""
    if score.heads is None or first_percent(score) is None:
        return ()
    return (_rate(score.name, first_percent(score), score.sinks[0].error),)


def early_lines(score: InputScore) -> list[str]:
    """The same of its first samples alone, and what can be said of them."""
    if score.heads is None or first_percent(score) is None:
        return []
    first = f"{score.name}, first {count(score.samples)} sample{'s' * (score.samples > 1)}"
    return [_rate(first, first_percent(score), score.sinks[0].error), *_where(score), *_carriers(score)]


def _rate(name: str, rate: float, error: float | None) -> str:
    sure = "" if error is None else f" ± {error:.1f}"
    return f"{name}: {percent(rate)}{sure} of heads sink on the first token"


def line_of(costs: Sequence[CostLine], start: str, whom: str | None = None) -> CostLine | None:
    """The first line whose name starts so, hidden from `whom`, that scored enough tokens."""
    named = [line for line in costs if line.name.startswith(start) and line.tokens >= ENOUGH]
    named = [line for line in named if whom in (None, line.hidden_from)]
    return next((line for line in named if line.perplexity and line.baseline), None)


def cost_of(costs: Sequence[CostLine], start: str, whom: str | None = None) -> float | None:
    """By how much perplexity rises in that line, a share."""
    line = line_of(costs, start, whom)
    return None if line is None else line.perplexity / line.baseline - 1


def _strength(main: InputScore, other: InputScore | None) -> str:
    rate, epsilon = first_percent(main), main.sinks[0].epsilon
    token = quoted(main.first_tokens[0]) if main.bos is not False else "the first token"
    if rate < NO_SINK:
        begun = f"No sink on {token}: {percent(rate)} of heads"
    else:
        begun = f"{percent(rate)} of heads sink on {token}"
    begun += f" (α > {epsilon:g}; {main.samples:,} {'sample' if main.samples == 1 else 'samples'} of {main.length:,}"
    begun += ", spread over the text)" if main.kind == "natural" and main.samples > 1 else ")"
    if other is not None:
        begun += f"; without it, {percent(first_percent(other))} on the first token"
    learned = [layer.learned_mass for layer in main.layers if layer.learned_mass is not None]
    if learned:
        begun += f"; learned sinks take {percent(100 * sum(learned) / len(learned))} of the mass"
    return begun + "."


def _where(main: InputScore) -> list[str]:
    attending = [layer for layer in main.layers if layer.attends]
    strong = [layer.number for layer in attending if (layer.sink_percent or 0) >= 50]
    said = []
    if strong:
        said.append(f"Layers where at least half of the heads do: {ranges(strong)} of {len(main.layers)}")
    for found in elsewhere(main)[:1]:
        besides = "besides, " if strong else ""
        said.append(
            f"{besides}{percent(found.percent)} of heads sink on {quoted(found.token)} "
            f"({found.times} of {found.occurrences} places)"
        )
    return [_sentence("; ".join(said))] if said else []


def _carriers(main: InputScore) -> list[str]:
    said = []
    shown = [layer for layer in main.layers if layer.massive is not None and layer.massive.median > 0]
    if shown:
        top = max(shown, key=lambda layer: layer.massive.top[0])
        m = top.massive
        size = (
            f"|h| = {figures(m.top[0])} ({count(round(m.top[0] / m.median))}× the median) at {quoted(m.text)}, "
            f"channel {m.channel}"
        )
        if main.massive_layers:
            said.append(f"Massive activations in layers {ranges(main.massive_layers)}: {size}")
        else:
            said.append(f"No massive activations by the definition; the largest is {size}, layer {top.number}")
        if any(layer.massive.not_finite for layer in shown):
            said.append("some activations are not finite, so this dtype is too narrow for the model")
    sinking = [layer for layer in main.layers if (layer.sink_percent or 0) >= 50 and (layer.value_drain or 1) < DRAINED]
    if sinking:
        layer = min(sinking, key=lambda layer: layer.value_drain)
        said.append(f"the sink's values are drained to {layer.value_drain:.2f} of the others' (layer {layer.number})")
    return [_sentence("; ".join(said))] if said else []


def _cost(costs: Sequence[CostLine]) -> list[str]:
    lines = [
        (words, line_of(costs, start))
        for start, words in (
            ("0+", "streaming without the first tokens"),
            ("massive activations zeroed", "zeroing the massive activations"),
            ("largest activations zeroed", "zeroing the largest activations"),
        )
    ]
    other = line_of(costs, "“", SCORED)
    if other is not None:
        lines.insert(0, (f"hiding {other.name.partition(' hidden')[0]} where heads sink on it", other))
    said = [f"{words} {_priced(line)}" for words, line in lines if line is not None]
    later, scored = (line_of(costs, "first key", whom) for whom in (LATER, SCORED))
    if later is None or scored is None:
        return [_sentence(", ".join(said))] if said else []
    if not _apart(later, scored):
        return [_sentence(", ".join([f"hiding the first key {_priced(scored)}", *said]))]
    first = (
        f"hiding the first key {_priced(scored)} once the sink has formed; hidden from every later query it "
        f"{_priced(later)}"
    )
    return [_sentence(first + _instead(later.taken_over)), *([_sentence(", ".join(said))] if said else [])]


def _apart(one: CostLine, other: CostLine) -> bool:
    """Whether two costs differ, by more than both of their standard errors allow for."""
    costs = [line.perplexity / line.baseline for line in (one, other)]
    errors = [line.error or 0.0 for line in (one, other)]
    return abs(costs[0] - costs[1]) > max(FREE, 2 * sum(error**2 for error in errors) ** 0.5)


def _instead(found: TakenOver | None) -> str:
    """, as token 2, “ the”, takes over: 60.1 % of heads sink on it then (0.0 % before), from layer 11 on."""
    if found is None or found.percent < NO_SINK:
        return ""
    token = f"token {figures(found.place + 1).removesuffix('.00').removesuffix('.0')}"
    said = f", as {token}{'' if found.token is None else f', {quoted(found.token)},'} takes over: "
    said += f"{percent(found.percent)} of heads sink on it then ({percent(found.before)} before)"
    return said + ("" if found.layer is None else f", from layer {found.layer} on")


def _priced(line: CostLine) -> str:
    cost, error = line.perplexity / line.baseline - 1, line.error
    sure = "" if error is None else f" ± {points(error)}"
    if abs(cost) < NOTHING:
        return "costs nothing"
    if cost < 0:
        return f"lowers perplexity by {percent(-100 * cost)}{sure}"
    return f"costs {percent(100 * cost)}{sure} of perplexity" if cost < 9 else (
        f"multiplies perplexity by {figures(1 + cost)}"
    )  # fmt: skip


def _advice(kind: str, main: InputScore, other: InputScore | None, costs: Sequence[CostLine]) -> list[str]:
    said = [_of_vision(main) if kind == "vision" else _of_encoder(main, other) if kind == "encoder" else None]
    if kind == "decoder":
        said = [_of_decoder(main, other, costs)]
    heavy = [layer.number for layer in main.layers if (layer.kurtosis or 0) > HEAVY_TAILS]
    layers = "layer" if len(heavy) == 1 else "layers"
    channels = sorted({layer.massive.channel for layer in _massive(main)})[:4]
    if channels:
        said.append(f"leave channels {', '.join(map(str, channels))} out of low-bit activation quantization")
    elif heavy:
        said.append(f"kurtosis above {HEAVY_TAILS:,.0f} in {layers} {ranges(heavy)}: outliers for low-bit activations")
    said = [words for words in said if words]
    return [_sentence("; ".join(said))] if said else []


def _of_decoder(main: InputScore, other: InputScore | None, costs: Sequence[CostLine]) -> str:
    """What to do with the first tokens: by what they cost, and not by their rate, where that was measured.

    That is what a stream loses without them, and what hiding the first key costs once the sink has formed: hidden
    from the beginning, another token may take over, which one evicted later leaves no time for.
    """
    streamed, formed, rate = cost_of(costs, "0+"), cost_of(costs, "first key", SCORED), first_percent(main)
    if streamed is None and formed is not None and formed > FREE:
        return "keep the first tokens in the cache, and in full precision: what comes later leans on them"
    if streamed is None:
        return "what evicting the first tokens costs was not measured" if rate < NO_SINK else (
            "keep the first tokens in the cache (sinkctl stream -p 4+W), until a measured cost says otherwise"
        )  # fmt: skip
    if streamed <= FREE and formed is not None and formed > FREE:
        return (
            "a stream does without the first tokens, yet later tokens lean on them: evict them only as a window does, "
            "and keep them in full precision"
        )
    if streamed <= FREE and rate < NO_SINK:
        return "a plain window is safe: nothing leans on the first tokens"
    if streamed <= FREE:
        return "heads park attention there, yet the model does without it: evicting the first tokens is cheap"
    if other is not None and rate - first_percent(other) > WEAK_SINK:
        return "put BOS in front of every text, and keep it in the cache: sinkctl stream -p 4+W"
    if other is None and main.bos:
        return "keep BOS in the cache: sinkctl stream -p 4+W; --bos both tells whether another first token would do"
    return "keep the first tokens in the cache whatever they are: sinkctl stream -p 4+W"


def _kept(main: InputScore) -> list[str]:
    """Which tokens to keep in full where keys and values are rounded, as far as massive activations tell them."""
    found = main.predicted
    if found is None:
        return []
    where = f"in channel{'s' if len(found.channels) > 1 else ''} {ranges(found.channels)} after layer {found.layer}"
    if not found.all.right:
        return [f"Tokens massive {where} are no sinks of later layers: rounded keys and values need keep none of them."]
    number, others = found.keep.rpartition(":")[2], found.besides_first
    first = "first token" if number == "1" else f"first {number} tokens"
    total = f"{found.all.predicted:,} places massive {where}, {found.all.right:,} of them sinks of later layers"
    if found.keep == "none":
        said = f"Where keys and values are rounded, no setting keeps what matters in full: {total}"
    else:
        share = "all" if not found.left else f"{found.all.predicted - found.left:,} of the"
        said = (
            f"Where keys and values are rounded, keep the {first} in full (sinkctl stream --kv 4bit --kv-keep "
            f"{found.keep}): that is {share} {total}"
        )
    return [said + (f"; of {others.sinks:,} other sinks, this names {others.right:,}." if others.sinks else ".")]


def _of_encoder(main: InputScore, other: InputScore | None) -> str:
    if first_percent(main) < NO_SINK:
        return "nothing leans on the first token"
    said = f"leave {quoted(main.first_tokens[0])} out where attention is read as relevance"
    anywhere = other is not None and first_percent(other) > first_percent(main) / 2
    return said + (", and whatever comes first in its place" if anywhere else "")


def _of_vision(main: InputScore) -> str | None:
    if main.patches is None:
        return None
    if not main.patches.outlier_percent:
        return f"no outlier patches (norms above {main.patches.threshold:g})"
    kept = "although it has registers" if main.patches.registers else "registers would hold what they do"
    return f"{percent(main.patches.outlier_percent)} of the patches are outliers, {kept}"


def _massive(main: InputScore) -> list[LayerScore]:
    return [layer for layer in main.layers if layer.number in main.massive_layers]


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:] + "."
