"""What a measured checkpoint's numbers say, in words: whether it sinks, on what, what carries it, what to do."""

from collections.abc import Sequence

from sinkctl.result.measure import CostLine, InputScore, LayerScore

NO_SINK, WEAK_SINK = 5.0, 20.0  # percent of heads
ELSEWHERE = 1.0  # percent of heads, mean over all places of a token, from which it is worth a word
FREE = 0.02  # a perplexity that rises by less says that nothing was lost
HEAVY_TAILS = 1000.0  # kurtosis; BERT without clipping has 3,076, with clipped softmax 80 (arXiv 2306.12929)


def main_input(inputs: Sequence[InputScore]) -> InputScore:
    """The input that a checkpoint is judged by: text, with BOS where that was measured."""
    return min(inputs, key=lambda score: (score.kind not in ("natural", "images"), score.bos is False))


def verdict(kind: str, inputs: Sequence[InputScore], costs: Sequence[CostLine]) -> list[str]:
    """At most six sentences about a decoder, encoder or vision model (`kind`)."""
    main = main_input(inputs)
    if main.heads is None:
        return _carriers(main) or ["No softmax attention, so no attention sinks to find."]
    other = next((s for s in inputs if s.kind == main.kind and s.bos is False and s is not main), None)
    said = [_strength(main, other)]
    said += _where(main)
    said += _carriers(main)
    said += _cost(costs)
    said.append(_advice(kind, main, other, costs))
    return said


def first_percent(score: InputScore) -> float:
    """Sink_1 at the first ε."""
    return score.sinks[0].percent


def cost_of(costs: Sequence[CostLine], start: str) -> float | None:
    """By how much perplexity rises, a share, in the first line whose name starts so."""
    line = next((line for line in costs if line.name.startswith(start) and line.perplexity and line.baseline), None)
    return None if line is None else line.perplexity / line.baseline - 1


def _strength(main: InputScore, other: InputScore | None) -> str:
    percent, epsilon = first_percent(main), main.sinks[0].epsilon
    token = _quoted(main.first_tokens[0]) if main.bos is not False else "the first token"
    if main.sinks[0].percent < NO_SINK:
        begun = f"No sink: {_percent(percent)} of heads sink on {token}"
    else:
        begun = f"{_percent(percent)} of heads sink on {token}"
    begun += f" (α > {epsilon:g}; {main.samples:,} {'sample' if main.samples == 1 else 'samples'} of {main.length:,})"
    if other is not None:
        begun += f"; without it, {_percent(first_percent(other))} on the first token"
    learned = [layer.learned_mass for layer in main.layers if layer.learned_mass is not None]
    if learned:
        begun += f"; learned sinks take {100 * sum(learned) / len(learned):.1f} % of the mass"
    return begun + "."


def _where(main: InputScore) -> list[str]:
    attending = [layer for layer in main.layers if layer.attends]
    strong = [layer.number for layer in attending if layer.sink_percent >= 50]
    said = []
    if strong:
        said.append(f"Layers where at least half of the heads do: {_ranges(strong)} of {len(main.layers)}")
    found = next((sink for sink in main.found if sink.percent * sink.times >= ELSEWHERE * sink.occurrences), None)
    if found is not None:
        said.append(
            f"besides, {_percent(found.percent)} of heads sink on {_quoted(found.token)} "
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
            f"|h| = {m.top[0]:,.4g} ({m.top[0] / m.median:,.0f}× the median) at {_quoted(m.text)}, channel {m.channel}"
        )
        if main.massive_layers:
            said.append(f"Massive activations in layers {_ranges(main.massive_layers)}: {size}")
        else:
            said.append(f"No massive activations by the definition; the largest is {size}, layer {top.number}")
        if any(layer.massive.not_finite for layer in shown):
            said.append("some activations are not finite, so this dtype is too narrow for the model")
    sinking = [layer for layer in main.layers if layer.value_drain is not None and (layer.sink_percent or 0) >= 50]
    if sinking:
        layer = min(sinking, key=lambda layer: layer.value_drain)
        said.append(f"the sink's values are drained to {layer.value_drain:.2f} of the others' (layer {layer.number})")
    return [_sentence("; ".join(said))] if said else []


def _cost(costs: Sequence[CostLine]) -> list[str]:
    said = [
        f"{words} costs {100 * cost:+.1f} % of perplexity".replace("+", "")
        for start, words in (
            ("first key hidden", "Hiding the first key"),
            ("0+", "streaming without the first tokens"),
            ("massive activations zeroed", "zeroing the largest activations"),
        )
        if (cost := cost_of(costs, start)) is not None
    ]
    return [_sentence(", ".join(said))] if said else []


def _advice(kind: str, main: InputScore, other: InputScore | None, costs: Sequence[CostLine]) -> str:
    streamed = cost_of(costs, "0+")
    percent = first_percent(main)
    if kind == "vision":
        outliers = None if main.patches is None else main.patches.outlier_percent
        said = (
            "Outlier patches hold what registers would: take a checkpoint with registers" if outliers else "No outliers"
        )
    elif kind == "encoder":
        said = f"Leave {_quoted(main.first_tokens[0])} out where attention is read as relevance"
        said = said if percent >= NO_SINK else "Nothing leans on the first token"
    elif percent < NO_SINK and not (streamed is not None and streamed > FREE):
        said = "A plain window is safe: nothing leans on the first tokens"
    elif streamed is not None and streamed <= FREE:
        said = "Heads park attention there, yet the model does without it: evicting the first tokens is cheap"
    elif other is not None and percent - first_percent(other) > WEAK_SINK:
        said = "Put BOS in front of every text, and keep it in the cache: `sinkctl stream -p 4+W`"
    else:
        said = "Keep the first tokens in the cache whatever they are: `sinkctl stream -p 4+W`"
    heavy = [layer.number for layer in main.layers if (layer.kurtosis or 0) > HEAVY_TAILS]
    if heavy or main.massive_layers:
        channels = sorted({layer.massive.channel for layer in _massive(main)})[:4]
        where = f"channels {', '.join(map(str, channels))}" if channels else f"layers {_ranges(heavy)}"
        said += f"; leave {where} out of low-bit activation quantization"
    return said + "."


def _massive(main: InputScore) -> list[LayerScore]:
    return [layer for layer in main.layers if layer.number in main.massive_layers]


def _ranges(numbers: Sequence[int]) -> str:
    """3–10, 12."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{part[0]}–{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)


def _percent(value: float) -> str:
    return f"{value:.1f} %" if value >= 1 or value == 0 else f"{value:.2f} %"


def _quoted(token: str) -> str:
    return f"`{token}`" if token.strip() else repr(token)


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:] + "."
