"""What a measured checkpoint's numbers say, in words: whether it sinks, on what, what carries it, what to do."""

from collections.abc import Sequence

from sinkctl.result.measure import LATER, SCORED, CostLine, InputScore, TakenOver
from sinkctl.result.numbers import count, figures, percent, points
from sinkctl.result.words import group_line, massive_layers, quoted, ranges
from sinkctl.tasks.measure.advice import advice, kept
from sinkctl.tasks.measure.reading import FREE, NO_SINK, elsewhere, first_percent, line_of, main_input, sentence

DRAINED = 0.5  # of the others' norm
NOTHING = 0.005  # a share of perplexity that is no cost
APART = 1.1  # times the mean of samples that a maximum has to be to be told beside it


def verdict(kind: str, inputs: Sequence[InputScore], costs: Sequence[CostLine]) -> list[str]:
    """At most seven sentences about a model of this `kind`."""
    main = main_input(inputs)
    if main.part is not None:
        return [words for score in inputs if score.kind == main.kind for words in _of_part(score)]
    if main.kind == "denoising":
        return _of_steps(inputs)
    if main.heads is None:
        attended = any(layer.attends for layer in main.layers)
        nothing = [] if attended else ["No softmax attention was measured, so nothing is said of attention sinks."]
        return nothing + _carriers(main) + _cost(costs)
    if first_percent(main) is None:
        return ["Attention is not finite in this dtype: nothing can be said of sinks."]
    if kind == "decoder" and (short := _too_short(main)):
        return short
    others = (s for s in inputs if s.kind == main.kind and s.bos is False and s is not main)
    other = next((s for s in others if first_percent(s) is not None), None)
    return [
        _strength(main, other), *_where(main), *_kinds(main), *_carriers(main), *_cost(costs),
        *advice(kind, main, other, costs), *kept(main),
    ]  # fmt: skip


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


def _too_short(main: InputScore) -> list[str]:
    """What is said of causal attention over so few tokens that nothing can be; nothing where there are enough."""
    uniform = sum(1 / t for t in range(1, main.length + 1)) / main.length
    if uniform < main.sinks[0].epsilon:
        return []
    return [
        f"Samples of {main.length} tokens are too short to tell: attention spread evenly gives the first token "
        f"{uniform:.2f} already, more than {main.sinks[0].epsilon:g}."
    ]


def _of_part(score: InputScore) -> list[str]:
    """Of an encoder-decoder."""
    if score.heads is None:
        said = _carriers(score) or ["No attention was measured."]
        return [sentence(f"{score.part}: {' '.join(said)}".rstrip("."))]
    if first_percent(score) is None:
        return [sentence(f"{score.part}: attention is not finite in this dtype")]
    short = _too_short(score) if score.part == "decoder" else []
    said = short or [_strength(score, None), *_where(score), *_kinds(score), *_carriers(score)]
    return [sentence(f"{score.part}: {' '.join(said)}".rstrip("."))]


def _of_steps(steps: Sequence[InputScore]) -> list[str]:
    """Of a denoising trajectory: how spread attention is, on which patch heads sink most, the largest activation."""
    said, ends = [], {score.name: score for score in (steps[0], steps[-1])}
    shares = [[x for layer in score.layers if (x := layer.entropy_share) is not None] for score in ends.values()]
    if all(shares):
        of = [f"{sum(x) / len(x):.2f} of its largest at {name}" for name, x in zip(ends, shares, strict=True)]
        said.append(f"Entropy of attention: {' and '.join(of)}.")
        sinks = [(sink.percent * sink.times, number) for number, score in enumerate(steps) for sink in score.found[:1]]
        rule = f"α > {steps[0].sinks[0].epsilon:g}; {steps[0].samples:,} samples of {steps[0].length:,} patches"
        if not sinks:
            said.append(f"At none of {len(steps)} steps do heads sink on a patch besides the first ({rule}).")
        else:
            score = steps[max(sinks)[1]]
            sink = score.found[0]
            said.append(
                f"{percent(sink.percent)} of heads sink on {quoted(sink.token)} at {score.name} "
                f"({sink.times} of {sink.occurrences} places; {rule})."
            )
    tops = [max((layer.massive.top[0] or 0 for layer in score.layers if layer.massive), default=0) for score in steps]
    largest = steps[tops.index(max(tops))]
    return said + [f"{largest.name[:1].upper()}{largest.name[1:]}: {words}" for words in _carriers(largest)]


def _kinds(main: InputScore) -> list[str]:
    whose = "its attention" if main.kind != "multimodal" else "the attention of text behind an image"
    return [f"Of {whose}, {group_line(main.groups)}."] if main.groups else []


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
    return [sentence("; ".join(said))] if said else []


def _carriers(main: InputScore) -> list[str]:
    said = []
    shown = [layer for layer in main.layers if layer.massive is not None and layer.massive.median > 0]
    if shown:
        top = max(shown, key=lambda layer: layer.massive.top[0])
        m = top.massive
        ratio, place = f"{count(round(m.top[0] / m.median))}× the median", f"at {quoted(m.text)}, channel {m.channel}"
        if (m.largest or 0) > APART * m.top[0]:
            place = f"in the mean of samples, up to {figures(m.largest)}, {place}"
        size = f"|h| = {figures(m.top[0])} ({ratio}) {place}"
        if main.massive_layers:
            said.append(f"Massive activations in layers {massive_layers(main)}: {size}")
        else:
            said.append(f"No massive activations by the definition; the largest is {size}, layer {top.number}")
        if any(layer.massive.not_finite for layer in shown):
            said.append("some activations are not finite, so this dtype is too narrow for the model")
    sinking = [layer for layer in main.layers if (layer.sink_percent or 0) >= 50 and (layer.value_drain or 1) < DRAINED]
    if sinking:
        layer = min(sinking, key=lambda layer: layer.value_drain)
        said.append(f"the sink's values are drained to {layer.value_drain:.2f} of the others' (layer {layer.number})")
    return [sentence("; ".join(said))] if said else []


def _cost(costs: Sequence[CostLine]) -> list[str]:
    lines = [
        (words, line_of(costs, start))
        for start, words in (
            ("0+", "streaming without the first tokens"),
            ("massive activations zeroed", "zeroing the massive activations"),
            ("largest activations zeroed", "zeroing the largest activations"),
            ("first key hidden from the text", "hiding the first key from text behind the image"),
            ("image hidden", "hiding the image from it"),
            ("50 % moved", "giving half of the first token's attention to the image"),
        )
    ]
    other = line_of(costs, "“", SCORED)
    if other is not None:
        lines.insert(0, (f"hiding {other.name.partition(' hidden')[0]} where heads sink on it", other))
    said = [f"{words} {_priced(line)}" for words, line in lines if line is not None]
    later, scored = (line_of(costs, "first key", whom) for whom in (LATER, SCORED))
    if later is None or scored is None:
        return [sentence(", ".join(said))] if said else []
    if not _apart(later, scored):
        return [sentence(", ".join([f"hiding the first key {_priced(scored)}", *said]))]
    first = (
        f"hiding the first key {_priced(scored)} once the sink has formed; hidden from every later query it "
        f"{_priced(later)}"
    )
    return [sentence(first + _instead(later.taken_over)), *([sentence(", ".join(said))] if said else [])]


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
    if abs(cost) < NOTHING and (error or 0.0) <= FREE / 2:
        return "costs nothing"
    if cost < 0:
        return f"lowers perplexity by {percent(-100 * cost)}{sure}"
    return f"costs {percent(100 * cost)}{sure} of perplexity" if cost < 9 else (
        f"multiplies perplexity by {figures(1 + cost)}"
    )  # fmt: skip
